import re

import pytest
from PIL import Image

from tests.helpers.sources_common import pictures, reasons, run, save, texts
from tests.tools.fuzz import assert_survives, mutations

PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<pc:PcGts xmlns:pc="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15">
 <pc:Page imageFilename="IMG/p_0017.png" imageWidth="200" imageHeight="100">
  <pc:ReadingOrder><pc:OrderedGroup id="o">
   <pc:RegionRefIndexed index="1" regionRef="b"/><pc:RegionRefIndexed index="0" regionRef="a"/>
  </pc:OrderedGroup></pc:ReadingOrder>
  <pc:TextRegion id="b"><pc:Coords points="0,50 200,50 200,100 0,100"/>
   <pc:TextLine id="l3"><pc:Coords points="10,60 90,60 90,80 10,80"/>
    <pc:Word id="w1"><pc:TextEquiv><pc:Unicode>two</pc:Unicode></pc:TextEquiv></pc:Word>
    <pc:Word id="w2"><pc:TextEquiv><pc:Unicode>words</pc:Unicode></pc:TextEquiv></pc:Word>
   </pc:TextLine>
   <pc:TextLine id="l4"><pc:Coords points="10,85 90,85 90,95 10,95"/></pc:TextLine>
  </pc:TextRegion>
  <pc:TextRegion id="a"><pc:Coords points="0,0 200,0 200,50 0,50"/>
   <pc:TextLine id="l1"><pc:Coords points="10,10 110,10 60,40"/>
    <pc:TextEquiv index="1"><pc:Unicode>worse</pc:Unicode></pc:TextEquiv>
    <pc:TextEquiv index="0"><pc:Unicode>Zwoͤlftes</pc:Unicode></pc:TextEquiv></pc:TextLine>
   <pc:TextLine id="l2"><pc:TextEquiv><pc:Unicode>nowhere</pc:Unicode></pc:TextEquiv></pc:TextLine>
  </pc:TextRegion>
 </pc:Page>
</pc:PcGts>
"""
ALTO = """<?xml version="1.0"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#">
 <Description><MeasurementUnit>{unit}</MeasurementUnit>{file}</Description>
 <Layout><Page ID="P" HEIGHT="{height}" WIDTH="{width}"><PrintSpace><TextBlock ID="b">
  <TextLine ID="l1" HPOS="{x}" VPOS="10" WIDTH="{w}" HEIGHT="20">
   <String CONTENT="Men"/><SP/><String CONTENT="schen"/><String CONTENT="tum"/><HYP CONTENT="-"/>
  </TextLine>
  <TextLine ID="l2" HPOS="10" VPOS="60" WIDTH="80" HEIGHT="20">
   <Shape><Polygon POINTS="10,60 90,60 90,80"/></Shape><String CONTENT="two"/>
  </TextLine>
  <TextLine ID="l3" HPOS="10" VPOS="90"><String CONTENT="broken"/></TextLine>
 </TextBlock></PrintSpace></Page></Layout>
</alto>
"""


def alto(unit="pixel", file="", width=200, height=100, x=10, w=100):
    return ALTO.format(unit=unit, file=file, width=width, height=height, x=x, w=w)


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_lines_of_page_xml_in_reading_order_along_their_polygons(tmp_path):
    source = write(tmp_path / "in", "p.xml", PAGE)
    Image.new("L", (200, 100), 0).save(source / "p_0017.png")
    write(source, "mets.xml", "<mets:mets xmlns:mets='x'><mets:page/></mets:mets>")
    summary, rows, rejects = run("page-xml", source, tmp_path / "out", language="de")
    assert texts(rows) == ["Zwoͤlftes", "two words"]
    assert {row.group for row in rows} == {"p_0017"}
    assert reasons(rejects) == ["malformed box", "null text"]
    assert summary["found"] == len(re.findall("<pc:TextLine ", PAGE))
    (cut,) = pictures(tmp_path / "out", rows[0])
    assert cut.size == (100, 30)
    # Below the triangle's sides it is white.
    assert cut.getpixel((50, 20)) == 0 and cut.getpixel((3, 27)) == 255
    _, rows, _ = run("page-xml", source, tmp_path / "pages", task="pages")
    assert texts(rows) == ["Zwoͤlftes\nnowhere\ntwo words"]


@pytest.mark.parametrize("file", ["", "<fileName>C:\\scans\\p_0017.png</fileName>"])
def test_alto_lines_are_read(tmp_path, file):
    file = file and f"<sourceImageInformation>{file}</sourceImageInformation>"
    source = write(tmp_path / "in", "ALTO_0017.xml", alto(file=file))
    save(source / "p_0017.png", (200, 100))
    for path in (source, source / "ALTO_0017.xml"):
        summary, rows, rejects = run("page-xml", path, tmp_path / f"out-{path.name}")
        assert texts(rows) == ["Men schen tum-", "two"]
        assert [(row.width, row.height) for row in rows] == [(100, 20), (80, 20)]
        assert reasons(rejects) == ["malformed box"]
        assert summary["found"] == ALTO.count("<TextLine ")


def test_alto_in_tenths_of_millimetres_is_measured_by_its_picture(tmp_path):
    text = alto("mm10", width=400, height=200, x=20, w=200).replace(' VPOS="10"', ' VPOS="20"')
    source = write(tmp_path / "in", "p_0017.xml", text.replace('HEIGHT="20"', 'HEIGHT="40"', 1))
    save(source / "p_0017.png", (200, 100))
    _, rows, _ = run("page-xml", source, tmp_path / "out")
    assert (rows[0].width, rows[0].height) == (100, 20)


def test_of_two_files_about_a_picture_page_xml_is_read(tmp_path):
    source = write(tmp_path / "in", "ALTO_0017.xml", alto())
    write(source, "PAGE_0017.xml", PAGE)
    save(source / "p_0017.png", (200, 100))
    _, rows, rejects = run("page-xml", source, tmp_path / "out")
    assert texts(rows) == ["Zwoͤlftes", "two words"]
    assert reasons(rejects).count("said already in PAGE_0017.xml") == 3


def test_a_picture_of_another_size_is_not_cut(tmp_path):
    source = write(tmp_path / "in", "p_0017.xml", alto())
    save(source / "p_0017.png", (300, 100))
    save(source / "q.png", (200, 100))
    write(source, "q.xml", alto())
    _, rows, rejects = run("page-xml", source, tmp_path / "out")
    assert len(rows) == 2 and reasons(rejects).count("size differs from annotation") == 2


def test_xml_loads_no_external_entities(tmp_path):
    (tmp_path / "secret.txt").write_text("SECRET")
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 9))
    entities = f'<!DOCTYPE x [<!ENTITY f SYSTEM "{tmp_path}/secret.txt"><!ENTITY e0 "x">{bomb}]>'
    text = PAGE.replace("<pc:PcGts", f"{entities}<pc:PcGts", 1)
    source = write(tmp_path / "in", "p.xml", text.replace("two", "&f;&e8;two"))
    save(source / "p_0017.png", (200, 100))
    try:
        _, rows, _ = run("page-xml", source, tmp_path / "out")
    except ValueError:
        return
    assert "SECRET" not in str(rows) and max(map(len, texts(rows))) < 100


@pytest.mark.parametrize("count", [500, pytest.param(2_000, marks=pytest.mark.slow)])
def test_damaged_pages_give_only_rows_and_rejects(tmp_path, count):
    save(tmp_path / "in" / "p_0017.png", (200, 100))
    half = count // 2
    for text in (PAGE, alto()):
        damaged = mutations(text.encode(), half)
        assert assert_survives("page-xml", damaged, tmp_path, "p_0017.xml") > 0
