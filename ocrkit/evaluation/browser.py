"""Browser of predictions for notebooks: filters, a list of samples, each sample in full."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ocrkit.data.rows import text_of
from ocrkit.display.notebook import STYLE, Shown, is_interactive, widget_bundle
from ocrkit.evaluation.analysis import KINDS
from ocrkit.evaluation.compare import Comparison
from ocrkit.evaluation.evaluation import Evaluation
from ocrkit.evaluation.records import scored_text
from ocrkit.evaluation.report import differences, shortened, thumbnail
from ocrkit.metrics.fields import field_table

if TYPE_CHECKING:
    from datasets import Dataset
    from ipywidgets import Dropdown, IntRangeSlider

LISTED = 1000  # samples in the browser's list; a front end is slow with more
ORDERS = ("worst first", "as in the data", "least confident first", "confident and wrong first")


class Samples:
    """Values that the browser filters samples by; of several systems those of the last one.

    `rates` are CERs in percent by system, `kinds` the kinds of error, `wrong` the fields of JSON
    that were read wrong.

    Args:
        evaluation: an evaluation, or a comparison of several.
        rows: the dataset's split; its pictures are shown where the records have none.
    """

    def __init__(self, evaluation: Evaluation | Comparison, rows: "Dataset | None" = None):
        self.rows = rows
        self.row_numbers = {} if rows is None else {key: n for n, key in enumerate(rows["id"])}
        if isinstance(evaluation, Comparison):
            self.systems = evaluation.evaluations
        else:
            self.systems = [evaluation]
        self.records = self.systems[-1].records
        self.rates: list[list[float]] = []
        for system in self.systems:
            cer = system.counts.edits.cer
            self.rates.append((100 * cer.part / cer.whole.clip(min=1)).tolist())
        counts = self.systems[-1].counts
        self.kinds = counts.error_kinds
        self.wrong: list[set[str]] = [set() for _ in self.records]
        numbers, truths, predictions = counts.extractions
        if truths:
            for field, tally in field_table(truths, predictions).items():
                for number, right, leaves in zip(numbers, tally.part, tally.whole):
                    if right < leaves:
                        self.wrong[number].add(field)
        # Texts that the search looks through.
        texts = [
            [truth, self.question(n), *(system.counts.predictions[n] for system in self.systems)]
            for n, truth in enumerate(counts.references)
        ]
        self.texts = ["\n".join(parts).casefold() for parts in texts]

    def question(self, number: int) -> str:
        """Question of a sample, where its row has one; without it answers mean little."""
        return str(self.records[number].get("question") or "")

    def change(self, number: int) -> float:
        """Percentage points of CER that the last system has over the first one."""
        return self.rates[-1][number] - self.rates[0][number]

    def order(self, name: str) -> list[int]:
        """Numbers of all samples in one of `ORDERS`; by `change` under any other name."""
        rates, numbers = self.rates[-1], range(len(self.records))
        confidences = [record.get("confidence") or 0.0 for record in self.records]
        keys: dict[str, Callable[[int], Any]] = {
            "worst first": lambda n: -rates[n],
            "as in the data": lambda n: n,
            "least confident first": lambda n: confidences[n],
            "confident and wrong first": lambda n: (not rates[n], -confidences[n]),
        }
        return sorted(numbers, key=keys.get(name, lambda n: -self.change(n)))

    def label(self, number: int) -> str:
        """One line on a sample: its rates and the beginning of its truth."""
        # Figure spaces are as wide as digits, and lists do not collapse them.
        rates = " → ".join(f"{rates[number]:3.0f}".replace(" ", "\u2007") for rates in self.rates)
        return f"{rates} %  {' '.join(self.records[number]['reference'].split())[:60]}"

    def image(self, number: int) -> Markup:
        """Picture of a sample, from the rows, or from the first system that has it."""
        rows, row = self.rows, self.row_numbers.get(self.records[number]["id"])
        if rows is not None and row is not None:
            # Rows come first: a record's path may be that of another machine.
            return picture(lambda: rows[row]["images"][0])
        images = [system.records[number].get("image") for system in self.systems]
        return picture(next((image for image in images if image is not None), None))

    def html(self, number: int) -> Markup:
        """HTML of a sample: picture, truth, what each system read, rates and confidence."""
        record = self.records[number]
        question = self.question(number)
        rows = [html_row("question", _html_text(question), "")] if question else []
        rows.append(html_row("truth", _html_text(record["reference"]), ""))
        for system, rates in zip(self.systems, self.rates):
            reading = system.records[number]
            text = differences(record["reference"], scored_text(reading)) or _html_text("")
            if reading.get("error"):
                text = f"failed: {reading.get('error')}"
            note = Markup("CER {:.0f} %").format(rates[number])
            if reading.get("confidence") is not None:
                note += Markup("<br>{:.0%} sure").format(reading.get("confidence"))
            rows.append(html_row(system.name, text, note))
        details = [str(record["id"]), record.get("language"), self.kinds[number]]
        if self.wrong[number]:
            details.append(f"wrong: {', '.join(sorted(self.wrong[number]))}")
        sample = Markup(
            "<div class='sample' lang='{}'>{}<table>{}</table></div><p class='soft'>{}</p>"
        )
        return sample.format(
            record.get("language") or "",
            self.image(number),
            Markup("").join(rows),
            " · ".join(filter(None, details)),
        )


class Browser:
    """Widgets to look through samples; without a kernel, a table of the worst samples.

    `chosen` holds the numbers of the samples that pass the filters, in order.

    Args:
        samples: the samples.
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
        style = {
            "layout": {"width": "auto", "flex": "1 1 230px", "min_width": "0"},
            "style": {"description_width": "70px"},
        }

        def dropdown(name: str, options: list) -> "Dropdown":
            return widgets.Dropdown(options=options, description=name, **style)

        def slider(name: str, top: int) -> "IntRangeSlider":
            return widgets.IntRangeSlider(
                value=(0, top), max=top, description=name, continuous_update=False, **style
            )

        languages = [record.get("language") for record in samples.records]
        orders = list(ORDERS)
        if len(samples.systems) > 1:
            orders.append("largest loss first")
        self.search = widgets.Text(description="Search", placeholder="truth or reading", **style)
        self.kind = dropdown("Show", self._kinds())
        self.language = dropdown("Language", _counted(languages))
        self.field = dropdown("Field", _counted([f for wrong in samples.wrong for f in wrong]))
        self.order = dropdown("Order", orders)
        self.length = slider("Length", max(len(record["reference"]) for record in samples.records))
        self.rate = slider("CER, %", 100)
        self.filters = [self.search, self.kind, self.order, self.length, self.rate]
        # Filters without a choice are left out.
        self.filters += [box for box in (self.language, self.field) if len(box.options) > 2]
        for widget in self.filters:
            widget.observe(self.filter, "value")

    def _make_box(self) -> None:
        import ipywidgets as widgets

        names = " → ".join(system.name for system in self.samples.systems)
        heading = Markup("{}<div class='ocrkit soft'>CER of {}, and truth</div>")
        self.heading = widgets.HTML(str(heading.format(STYLE, names)))
        self.list = widgets.Select(rows=14, layout={"width": "auto"})
        self.list.observe(self._show, "index")
        self.previous = widgets.Button(description="Previous", icon="arrow-left")
        self.next = widgets.Button(description="Next", icon="arrow-right")
        self.previous.on_click(lambda _: self.move_to((self.list.index or 0) - 1))
        self.next.on_click(lambda _: self.move_to((self.list.index or 0) + 1))
        # JupyterLab handles the arrow keys itself, except in text fields.
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
        self.detail = widgets.HTML()
        # On a phone, what does not fit beside the rest stands below it.
        row = {"flex_flow": "row wrap"}
        narrow, wide = (
            {"flex": flex, "min_width": "0", "margin": "0 14px 0 0"}
            for flex in ("0 1 326px", "1 1 420px")
        )
        steps = widgets.HBox([self.previous, self.next, self.place, self.count], layout=row)
        right = widgets.VBox([steps, self.detail], layout=wide)
        left = widgets.VBox([self.heading, self.list], layout=narrow)
        lines = [self.filters[:3], self.filters[3:], [left, right]]
        rows = [widgets.HBox(line, layout=row) for line in lines]
        self.box = widgets.VBox(rows, layout={"max_width": "1040px"})

    def _kinds(self) -> list[tuple[str, str]]:
        samples, count = self.samples, len(self.samples.records)
        wrong = [kind for kind in samples.kinds if kind]
        counts = {"all": count, "wrong": len(wrong), "right": count - len(wrong)}
        if len(samples.systems) > 1:
            changes = [samples.change(n) for n in range(count)]
            counts["better"] = sum(change < 0 for change in changes)
            counts["worse"] = sum(change > 0 for change in changes)
        counts |= {kind: wrong.count(kind) for kind in KINDS}
        return [(f"{name} ({n})", name) for name, n in counts.items() if n or name == "all"]

    def _fits(self, number: int) -> bool:
        samples, record = self.samples, self.samples.records[number]
        kind, rate = samples.kinds[number], min(samples.rates[-1][number], 100)
        passes = {
            "all": True,
            "wrong": kind is not None,
            "right": kind is None,
            "better": samples.change(number) < 0,
            "worse": samples.change(number) > 0,
        }
        return (
            passes.get(self.kind.value, kind == self.kind.value)
            and self.search.value.casefold() in samples.texts[number]
            and self.length.value[0] <= len(record["reference"]) <= self.length.value[1]
            and self.rate.value[0] <= rate <= self.rate.value[1]
            and self.language.value in (None, record.get("language"))
            and (self.field.value is None or self.field.value in samples.wrong[number])
        )

    def filter(self, change: object = None) -> None:
        """List the samples that fit all filters, and show the first."""
        self.chosen = [n for n in self.samples.order(self.order.value) if self._fits(n)]
        self.list.options = [(self.samples.label(n), n) for n in self.chosen[:LISTED]]
        self.place.max = max(1, len(self.list.options))
        self.list.index = 0 if self.chosen else None
        self._show()

    def move_to(self, place: int) -> None:
        """Show the sample at a place of the list; a place outside of it does nothing."""
        if 0 <= place < len(self.list.options):
            self.list.index = place

    def _show(self, change: object = None) -> None:
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
    """Table of the samples that the last system read worst; it needs no kernel."""
    chosen = samples.order("worst first")[:count]
    names = [system.name for system in samples.systems]
    questions = any(map(samples.question, chosen))
    titles = ["question", "truth", *names] if questions else ["truth", *names]
    head = Markup("").join(map(Markup("<th>{}</th>").format, ("", *titles)))
    lines, texts = [Markup("<tr>{}</tr>").format(head)], []
    for number in chosen:
        truth = samples.records[number]["reference"]
        readings = [scored_text(system.records[number]) for system in samples.systems]
        question = [samples.question(number)] if questions else []
        cells = [*question, _html_text(truth), *(differences(truth, text) for text in readings)]
        cell = Markup("<td class='read' data-title='{}'>{}</td>").format
        cells = Markup("").join(map(cell, titles, cells))
        lines.append(Markup("<tr><td>{}</td>{}</tr>").format(samples.image(number), cells))
        texts += [f"{title}: {text}" for title, text in zip(titles, (*question, truth, *readings))]
    note = f"The {len(chosen)} of {len(samples.records)} samples that {names[-1]} read worst."
    table = Markup("<p>{}</p><table>{}</table>").format(note, Markup("").join(lines))
    return Shown(table, "\n".join([note, *texts]))


def picture(image: Any) -> Markup:
    """HTML tag of a small picture, as `thumbnail` takes it; empty where it cannot be opened."""
    small = thumbnail(image)
    tag = Markup("<img src='{src}' width='{width}' height='{height}' alt=''>")
    return tag.format(**small) if small else Markup("")


def _html_text(text: str) -> str | Markup:
    return shortened(text) or Markup("<i class='soft'>empty</i>")


def html_row(name: str, text: str, note: str) -> Markup:
    """Row of a table: a name, a text, and a note such as a rate."""
    row = Markup("<tr><th>{}</th><td class='text'>{}</td><td class='rate'>{}</td></tr>")
    return row.format(name, text, note)


def _counted(values: Sequence[str | None]) -> list[tuple[str, str | None]]:
    """Options of a dropdown: values with their counts, most frequent first."""
    counts = Counter(value for value in values if value is not None).most_common()
    return [("any", None), *((f"{value} ({count})", value) for value, count in counts)]


def gallery(rows: "Dataset", count: int = 8) -> Shown:
    """Table of the first `count` rows: pictures with their texts, and prompts where these differ.

    Args:
        rows: a split that `load_data` returned.
        count: the most rows.
    """
    chosen = rows.take(min(count, rows.num_rows or count))
    shown = [[text_of(row["completion"])] for row in chosen]
    prompts = [text_of(row["prompt"]) for row in chosen]
    if len(set(prompts)) > 1:
        shown = [[prompt, *texts] for prompt, texts in zip(prompts, shown)]
    # The first column of texts takes the remaining width.
    wide, narrow, lines = Markup("<td class='text'>{}</td>"), Markup("<td>{}</td>"), []
    for row, texts in zip(chosen, shown):
        cells = wide.format(texts[0]) + Markup("").join(map(narrow.format, texts[1:]))
        lines.append(Markup("<tr><td>{}</td>{}</tr>").format(picture(row["images"][0]), cells))
    text = "\n".join(" | ".join(texts) for texts in shown)
    return Shown(Markup("<table>{}</table>").format(Markup("").join(lines)), text)


def browse(
    evaluation: Evaluation | Comparison, count: int = 8, rows: "Dataset | None" = None
) -> Browser | Shown:
    """Browse predictions: picture, truth, and what was read, with its differences.

    In an interactive notebook it is a browser with filters by kind of error, rate, length,
    language, field and text. Elsewhere, such as under papermill and on GitHub, it is a table of
    the worst samples.

    Args:
        evaluation: an evaluation, or a comparison to see all its systems on the same samples.
        count: rows of the table.
        rows: the split that was read, for its pictures; an evaluation made in this session has
            them, a loaded one only where its pictures are files.
    """
    samples = Samples(evaluation, rows)
    return Browser(samples, count) if is_interactive() else worst(samples, count)
