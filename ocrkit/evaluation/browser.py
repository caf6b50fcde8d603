"""A browser of predictions: which samples fit the filters, and how one looks."""

from collections import Counter
from typing import Any

from markupsafe import Markup

from ocrkit.data.rows import text_of
from ocrkit.display.notebook import STYLE, Shown, looked_at, widget_bundle
from ocrkit.evaluation.analysis import KINDS, error_kinds, said
from ocrkit.evaluation.compare import Comparison
from ocrkit.evaluation.evaluation import Evaluation, extractions
from ocrkit.evaluation.report import LONGEST, differences, thumbnail
from ocrkit.metrics.edits import process_cer
from ocrkit.metrics.fields import field_table

LISTED = 1000  # samples in the browser's list; a front end is slow with more
ORDERS = ("worst first", "as in the data", "least confident first", "confident and wrong first")


class Samples:
    """What the browser filters by, sample by sample; of several systems the last one counts.

    `rates` are CERs in percent by system, `kinds` those of `analysis.error_kinds`, `wrong` the
    fields of JSON that were read wrong. `rows` have the pictures of evaluations that have none.
    """

    def __init__(self, found: Evaluation | Comparison, rows: Any = None):
        self.rows = rows
        self.places = {} if rows is None else {key: n for n, key in enumerate(rows["id"])}
        self.systems = found.evaluations if isinstance(found, Comparison) else [found]
        self.records = self.systems[-1].records
        truths = [record["reference"] for record in self.records]
        self.rates = []
        for system in self.systems:
            tally = process_cer(truths, list(map(said, system.records)))
            self.rates.append((100 * tally.part / tally.whole.clip(min=1)).tolist())
        self.kinds = error_kinds(self.records)
        self.wrong: list[set[str]] = [set() for _ in self.records]
        numbers, known, read = extractions(self.records)
        for field, tally in field_table(known, read).items() if known else ():
            for number, part, whole in zip(numbers, *tally):
                if part < whole:
                    self.wrong[number].add(field)
        read = [
            [truth, self.question(n), *(said(system.records[n]) for system in self.systems)]
            for n, truth in enumerate(truths)
        ]
        self.texts = ["\n".join(texts).casefold() for texts in read]

    def question(self, number: int) -> str:
        """What was asked about a sample, where its row says so; without it answers tell little."""
        return str(self.records[number].get("question") or "")

    def change(self, number: int) -> float:
        """Percentage points of CER that the last system has over the first one."""
        return self.rates[-1][number] - self.rates[0][number]

    def order(self, name: str) -> list[int]:
        """All samples in one of `ORDERS`, or by `change` where it is another name."""
        rates, numbers = self.rates[-1], range(len(self.records))
        sure = [record.get("confidence") or 0.0 for record in self.records]
        keys = {
            "worst first": lambda n: -rates[n],
            "as in the data": lambda n: n,
            "least confident first": lambda n: sure[n],
            "confident and wrong first": lambda n: (not rates[n], -sure[n]),
        }
        return sorted(numbers, key=keys.get(name, lambda n: -self.change(n)))

    def label(self, number: int) -> str:
        """A sample in a line: its rates and the beginning of its truth."""
        # Figure spaces are as wide as digits, and a list keeps them.
        rates = " → ".join(f"{rates[number]:3.0f}".replace(" ", "\u2007") for rates in self.rates)
        return f"{rates} %  {' '.join(self.records[number]['reference'].split())[:60]}"

    def image(self, number: int) -> Markup:
        """The picture of a sample, from the rows, or the first system that has it."""
        images = [system.records[number].get("image") for system in self.systems]
        place = self.places.get(self.records[number]["id"])
        if place is not None:
            # Before a path, which may be that of another machine.
            images.insert(0, lambda: self.rows[place]["images"][0])
        return picture(next((image for image in images if image is not None), None))

    def html(self, number: int) -> Markup:
        """A sample in full: picture, truth, what each system read, rates and confidence."""
        record = self.records[number]
        question = self.question(number)
        rows = [_row("question", _cut(question), "")] if question else []
        rows.append(_row("truth", _cut(record["reference"]), ""))
        for system, rates in zip(self.systems, self.rates):
            one = system.records[number]
            text: Any = differences(record["reference"], said(one)) or _cut("")
            if one.get("error"):
                text = f"failed: {one['error']}"
            note = Markup("CER {:.0f} %").format(rates[number])
            if one.get("confidence") is not None:
                note += Markup("<br>{:.0%} sure").format(one["confidence"])
            rows.append(_row(system.name, text, note))
        about = [str(record["id"]), record.get("language"), self.kinds[number]]
        if self.wrong[number]:
            about.append(f"wrong: {', '.join(sorted(self.wrong[number]))}")
        sample = Markup(
            "<div class='sample' lang='{}'>{}<table>{}</table></div><p class='soft'>{}</p>"
        )
        return sample.format(
            record.get("language") or "",
            self.image(number),
            Markup("").join(rows),
            " · ".join(filter(None, about)),
        )


class Browser:
    """Widgets to look through samples; without a kernel, the table of the worst.

    `chosen` holds the numbers of the samples that the filters let through, in order.

    Args:
        samples: what there is to see.
        count: rows of the table.
    """

    def __init__(self, samples: Samples, count: int):
        self.samples, self.chosen = samples, []
        self.fallback = worst(samples, count)
        self._make_filters()
        self._make_box()
        self.filter()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return widget_bundle(self.box, self.fallback)

    def _make_filters(self) -> None:
        import ipywidgets as widgets

        samples = self.samples
        look = {
            "layout": {"width": "auto", "flex": "1 1 0"},
            "style": {"description_width": "70px"},
        }

        def dropdown(name: str, options: list) -> widgets.Dropdown:
            return widgets.Dropdown(options=options, description=name, **look)

        def span(name: str, top: int) -> widgets.IntRangeSlider:
            return widgets.IntRangeSlider(
                value=(0, top), max=top, description=name, continuous_update=False, **look
            )

        languages = [record.get("language") for record in samples.records]
        orders = [*ORDERS, *(["largest loss first"] if len(samples.systems) > 1 else [])]
        self.search = widgets.Text(description="Search", placeholder="truth or reading", **look)
        self.kind = dropdown("Show", self._kinds())
        self.language = dropdown("Language", _counted(languages))
        self.field = dropdown("Field", _counted([f for wrong in samples.wrong for f in wrong]))
        self.order = dropdown("Order", orders)
        self.length = span("Length", max(len(record["reference"]) for record in samples.records))
        self.rate = span("CER, %", 100)
        self.filters = [self.search, self.kind, self.order, self.length, self.rate]
        # A filter that has nothing to choose from only takes room.
        self.filters += [one for one in (self.language, self.field) if len(one.options) > 2]
        for one in self.filters:
            one.observe(self.filter, "value")

    def _make_box(self) -> None:
        import ipywidgets as widgets

        grow = {"flex": "1 1 0", "min_width": "0"}
        names = " → ".join(system.name for system in self.samples.systems)
        heading = Markup("{}<div class='ocrkit soft'>CER of {}, and truth</div>")
        self.heading = widgets.HTML(str(heading.format(STYLE, names)))
        self.list = widgets.Select(rows=14, layout={"width": "320px"})
        self.list.observe(self._show, "index")
        self.previous = widgets.Button(description="Previous", icon="arrow-left")
        self.next = widgets.Button(description="Next", icon="arrow-right")
        self.previous.on_click(lambda _: self.move_to((self.list.index or 0) - 1))
        self.next.on_click(lambda _: self.move_to((self.list.index or 0) + 1))
        # JupyterLab takes the arrow keys for itself everywhere but where one can write.
        self.place = widgets.BoundedIntText(
            min=1,
            max=1,
            description="Sample",
            tooltip="The arrow keys go up and down the list",
            style={"description_width": "60px"},
            layout={"width": "140px"},
        )
        self.place.observe(lambda change: self.move_to(change["new"] - 1), "value")
        self.count = widgets.HTML(layout={"margin": "0 0 0 8px"})
        self.detail = widgets.HTML(layout=grow)
        steps = widgets.HBox([self.previous, self.next, self.place, self.count])
        right = widgets.VBox([steps, self.detail], layout={**grow, "margin": "0 0 0 14px"})
        narrow = {"width": "326px", "flex": "0 0 auto"}
        left = widgets.VBox([self.heading, self.list], layout=narrow)
        lines = [self.filters[:3], self.filters[3:], [left, right]]
        self.box = widgets.VBox(list(map(widgets.HBox, lines)), layout={"max_width": "1040px"})

    def _kinds(self) -> list[tuple[str, str]]:
        samples, count = self.samples, len(self.samples.records)
        wrong = [kind for kind in samples.kinds if kind]
        found = {"all": count, "wrong": len(wrong), "right": count - len(wrong)}
        if len(samples.systems) > 1:
            changes = [samples.change(n) for n in range(count)]
            found["better"] = sum(change < 0 for change in changes)
            found["worse"] = sum(change > 0 for change in changes)
        found |= {kind: wrong.count(kind) for kind in KINDS}
        return [(f"{name} ({n})", name) for name, n in found.items() if n or name == "all"]

    def _fits(self, number: int) -> bool:
        samples, record, kind = self.samples, self.samples.records[number], self.kind.value
        found, rate = samples.kinds[number], min(samples.rates[-1][number], 100)
        shown = {
            "all": True,
            "wrong": found is not None,
            "right": found is None,
            "better": samples.change(number) < 0,
            "worse": samples.change(number) > 0,
        }
        return (
            shown.get(kind, found == kind)
            and self.search.value.casefold() in samples.texts[number]
            and self.length.value[0] <= len(record["reference"]) <= self.length.value[1]
            and self.rate.value[0] <= rate <= self.rate.value[1]
            and self.language.value in (None, record.get("language"))
            and (self.field.value is None or self.field.value in samples.wrong[number])
        )

    def filter(self, change: Any = None) -> None:
        """List the samples that fit all filters, and show the first."""
        self.chosen = [n for n in self.samples.order(self.order.value) if self._fits(n)]
        self.list.options = [(self.samples.label(n), n) for n in self.chosen[:LISTED]]
        self.place.max = max(1, len(self.list.options))
        self.list.index = 0 if self.chosen else None
        self._show()

    def move_to(self, place: int) -> None:
        """Show the sample at a place of the list; nothing happens where there is none."""
        if 0 <= place < len(self.list.options):
            self.list.index = place

    def _show(self, change: Any = None) -> None:
        place, listed = self.list.index, len(self.list.options)
        self.previous.disabled = not place
        self.next.disabled = place is None or place + 1 >= listed
        self.place.disabled = place is None
        if place is None:
            self.count.value, self.detail.value = "no sample fits", ""
            return
        self.place.value = place + 1
        more = f", the first {listed} listed" if listed < len(self.chosen) else ""
        self.count.value = f"of {len(self.chosen)}{more}"
        html = Markup("{}<div class='ocrkit'>{}</div>")
        self.detail.value = str(html.format(STYLE, self.samples.html(self.list.value)))


def worst(samples: Samples, count: int) -> Shown:
    """The samples that the last system read worst, as a table that needs no kernel."""
    chosen = samples.order("worst first")[:count]
    names = [system.name for system in samples.systems]
    asked = ["question"] if any(map(samples.question, chosen)) else []
    head = Markup("").join(map(Markup("<th>{}</th>").format, ("", *asked, "truth", *names)))
    lines, texts = [Markup("<tr>{}</tr>").format(head)], []
    for number in chosen:
        truth = samples.records[number]["reference"]
        read = [said(system.records[number]) for system in samples.systems]
        question = [samples.question(number)] if asked else []
        cells = [*question, _cut(truth), *(differences(truth, text) for text in read)]
        cells = Markup("").join(map(Markup("<td class='read'>{}</td>").format, cells))
        lines.append(Markup("<tr><td>{}</td>{}</tr>").format(samples.image(number), cells))
        shown = zip((*asked, "truth", *names), (*question, truth, *read))
        texts += [f"{name}: {text}" for name, text in shown]
    note = f"The {len(chosen)} of {len(samples.records)} samples that {names[-1]} read worst."
    table = Markup("<p>{}</p><table>{}</table>").format(note, Markup("").join(lines))
    return Shown(table, "\n".join([note, *texts]))


def picture(image: Any) -> Markup:
    """A small picture as an HTML tag; nothing where it cannot be had. As `thumbnail` takes it."""
    found = thumbnail(image)
    tag = Markup("<img src='{src}' width='{width}' height='{height}' alt=''>")
    return tag.format(**found) if found else Markup("")


def _cut(text: str) -> str | Markup:
    return text[:LONGEST] + "…" * (len(text) > LONGEST) or Markup("<i class='soft'>empty</i>")


def _row(name: str, text: Any, note: Any) -> Markup:
    row = Markup("<tr><th>{}</th><td class='text'>{}</td><td class='rate'>{}</td></tr>")
    return row.format(name, text, note)


def _counted(values: list) -> list[tuple[str, str | None]]:
    """Values and how often they come, most often first, as a dropdown's options."""
    found = Counter(value for value in values if value is not None).most_common()
    return [("any", None), *((f"{value} ({count})", value) for value, count in found)]


def gallery(rows: Any, count: int = 8) -> Shown:
    """The first `count` rows: pictures with their texts, and with prompts where these differ.

    Args:
        rows: a split as `load_data` gives it.
        count: how many to show.
    """
    chosen = rows.take(min(count, rows.num_rows or count))
    shown = [[text_of(row["completion"])] for row in chosen]
    prompts = [text_of(row["prompt"]) for row in chosen]
    if len(set(prompts)) > 1:
        shown = [[prompt, *texts] for prompt, texts in zip(prompts, shown)]
    # The first column of texts takes the room that there is.
    wide, narrow, lines = Markup("<td class='text'>{}</td>"), Markup("<td>{}</td>"), []
    for row, texts in zip(chosen, shown):
        cells = wide.format(texts[0]) + Markup("").join(map(narrow.format, texts[1:]))
        lines.append(Markup("<tr><td>{}</td>{}</tr>").format(picture(row["images"][0]), cells))
    text = "\n".join(" | ".join(texts) for texts in shown)
    return Shown(Markup("<table>{}</table>").format(Markup("").join(lines)), text)


def browse(found: Evaluation | Comparison, count: int = 8, rows: Any = None) -> Browser | Shown:
    """Predictions to look through: picture, truth, and what was read, with its differences.

    To a person it is a browser, with filters by kind of error, rate, length, language, field and
    text, and a list that the arrow keys move in. Where no one looks on, such as under papermill,
    and on GitHub, it is a table of the worst.

    Args:
        found: an evaluation, or a comparison to see all its systems on the same samples.
        count: rows of the table.
        rows: the split that was read, for the pictures; an evaluation that was made in this
            session has them, one that was loaded has not.
    """
    samples = Samples(found, rows)
    return Browser(samples, count) if looked_at() else worst(samples, count)
