// A field into which a picture is pasted from the clipboard. No script from elsewhere.

function render({ model, el }) {
  const field = document.createElement("input");
  // As ipywidgets' own text fields look.
  field.style = "font: 13px/1.4 system-ui, sans-serif; width: 210px; height: 28px; margin: 2px; " +
    "padding: 0 8px; box-sizing: border-box; color: inherit; background: transparent; " +
    "border: 1px solid rgba(128, 128, 128, .6);";
  field.placeholder = "or paste a picture here (Ctrl+V)";
  field.ariaLabel = field.placeholder;
  // JupyterLab's own shortcuts stay away from the keys.
  el.dataset.lmSuppressShortcuts = "true";
  el.append(field);
  field.addEventListener("paste", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    const text = event.clipboardData.getData("text");
    const file = [...event.clipboardData.files].find((f) => f.type.startsWith("image/"));
    if (file) model.send({ text: "" }, undefined, [await file.arrayBuffer()]);
    else model.send({ text: text.trim() });
  });
  field.addEventListener("input", () => { field.value = ""; }); // it takes nothing but a paste
}

export default { render };
