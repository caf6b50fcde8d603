// Labelling widget: shows a sample, sends what a person answers. No script from elsewhere.

const KEYS = [
  ["Enter", "take", "take"],
  ["Shift+Enter", "", "new line"],
  ["PageDown", "skip", "skip"],
  ["F2", "unreadable", "cannot be read"],
  ["F4", "undo", "undo"],
  ["PageUp", "previous", "previous"],
];
const SILENCE = 5000; // milliseconds without a reply after which the kernel is taken for gone

function render({ model, el }) {
  const make = (tag, name, parent = root) => {
    const element = document.createElement(tag);
    element.className = name;
    parent?.append(element);
    return element;
  };
  const root = make("div", "ocrkit-label", null);
  // JupyterLab's own shortcuts stay away from the keys.
  root.dataset.lmSuppressShortcuts = "true";
  el.append(root);
  const counter = make("div", "counter");
  const frame = make("div", "frame");
  const picture = make("img", "picture", frame);
  const facts = make("div", "facts");
  const draft = make("div", "draft");
  const box = make("textarea", "box");
  box.rows = 2;
  box.spellcheck = false;
  const note = make("div", "note");
  const bar = make("div", "bar");
  let sample = {}, shownAt = 0, keys = 0, count = 0, timer = 0, waiting = false;

  const kept = () => `ocrkit-label:${sample.folder}:${sample.id}`;
  const storage = (call) => {
    try { return call(window.localStorage); } catch { return null; } // not in every frame
  };

  function send(action) {
    if (waiting || (sample.done && !["undo", "previous"].includes(action))) return;
    waiting = true;
    count += 1;
    const seconds = (performance.now() - shownAt) / 1000;
    model.send({ action, id: sample.id, text: box.value, seconds, keys, count });
    timer = setTimeout(() => {
      waiting = false;
      note.textContent = "The kernel does not answer. What you typed is kept: start the kernel " +
        "again and run this cell.";
    }, SILENCE);
  }

  for (const [key, action, name] of KEYS) {
    const button = make(action ? "button" : "span", "key", bar);
    button.append(Object.assign(document.createElement("kbd"), { textContent: key }), ` ${name}`);
    if (!action) continue;
    button.dataset.action = action;
    button.onclick = () => { send(action); box.focus(); };
  }

  function keydown(event) {
    // Keys of an input method (Bangla, Korean, Chinese) are its own; Safari tells by 229 alone.
    if (event.isComposing || event.keyCode === 229) return;
    keys += 1;
    event.stopPropagation();
    const name = (event.shiftKey ? "Shift+" : "") + event.key;
    const found = KEYS.find(([key, action]) => key === name && action);
    if (!found || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (!event.repeat) send(found[1]);
  }
  root.addEventListener("keydown", keydown);
  box.addEventListener("input", () => storage((s) => s.setItem(kept(), box.value)));

  function marked(text, spans) {
    const characters = Array.from(text); // spans count code points, as Python does
    const parts = [];
    let start = 0;
    for (const [from, to] of spans) {
      parts.push(characters.slice(start, from).join(""));
      const mark = document.createElement("mark");
      mark.textContent = characters.slice(from, to).join("");
      parts.push(mark);
      start = to;
    }
    parts.push(characters.slice(start).join(""));
    return parts;
  }

  function show() {
    const before = sample;
    clearTimeout(timer);
    waiting = false;
    sample = model.get("sample");
    const moved = before.id !== sample.id;
    if (before.id && moved) {
      const old = `ocrkit-label:${before.folder}:${before.id}`;
      storage((s) => s.removeItem(old));
    }
    counter.textContent = sample.progress;
    note.textContent = sample.note || "";
    root.classList.toggle("done", !!sample.done);
    if (sample.done) {
      root.tabIndex = 0;
      root.focus();
      return;
    }
    picture.src = sample.picture;
    const sure = sample.confidence == null ? "" : `  (${Math.round(100 * sample.confidence)} % sure)`;
    draft.lang = box.lang = sample.language;
    draft.replaceChildren(...marked(sample.draft, sample.doubts), sure);
    facts.replaceChildren(...sample.facts.map(([key, text]) => {
      const line = document.createElement("div");
      line.textContent = `${key}: ${text}`;
      return line;
    }));
    const text = storage((s) => s.getItem(kept())) ?? sample.text;
    // Replies to the same picture (an empty text, a full disk) leave what stands in the box.
    if (moved) {
      box.value = text;
      box.rows = Math.max(2, text.split("\n").length);
      keys = 0;
      shownAt = performance.now();
      box.focus({ preventScroll: true });
      box.setSelectionRange(text.length, text.length);
    }
    root.dataset.shown = sample.id;
  }
  model.on("change:sample", show);
  show();
  // The notebook attaches the widget after this; only then can it be given the keyboard.
  const attached = new ResizeObserver(() => {
    if (!root.offsetHeight) return;
    attached.disconnect();
    (sample.done ? root : box).focus({ preventScroll: true });
  });
  attached.observe(root);
  return () => { clearTimeout(timer); attached.disconnect(); model.off("change:sample", show); };
}

export default { render };
