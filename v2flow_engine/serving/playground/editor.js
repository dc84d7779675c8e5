// The dialog in which a mask is painted over a picture.

import { MaskCanvas } from "./mask.js";

const at = (id) => document.getElementById(id);
const mask = new MaskCanvas(at("mask"), at("brush"));
let send = null;

// entry: of the history. done(prompt, mask): called with what was painted, unless the dialog is left.
export async function openEditor(entry, done) {
  const bitmap = await createImageBitmap(entry.blob);
  mask.reset(bitmap.width, bitmap.height);
  pressed(false);
  if (at("edit-picture").src) URL.revokeObjectURL(at("edit-picture").src);
  at("edit-picture").src = URL.createObjectURL(entry.blob);
  at("edit-picture").alt = entry.prompt;
  document.querySelector(".easel").style.setProperty("--ratio", `${bitmap.width} / ${bitmap.height}`);
  at("edit-prompt").value = entry.prompt;
  tell("");
  send = done;
  at("editor").showModal();
  at("mask").focus();
}

async function submit() {
  const prompt = at("edit-prompt").value.trim();
  if (!prompt) return tell("Say what the picture shall show.", at("edit-prompt"));
  if (mask.painted === 0) return tell("Nothing is painted yet: paint over what is to change.", at("mask"));
  const painted = await mask.toBlob();
  at("editor").close();
  send(prompt, painted);
}

function tell(message, field) {
  at("edit-error").textContent = message;
  at("edit-error").hidden = !message;
  field?.focus();
}

function pressed(erasing) {
  mask.erasing = erasing;
  at("erase").setAttribute("aria-pressed", String(erasing));
}

at("edit-form").addEventListener("submit", (event) => [event.preventDefault(), submit()]);
at("edit-prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) [event.preventDefault(), submit()];
});
at("edit-close").addEventListener("click", () => at("editor").close());
at("erase").addEventListener("click", () => pressed(!mask.erasing));
at("mask-clear").addEventListener("click", () => mask.fill(false));
at("mask-all").addEventListener("click", () => mask.fill(true));
