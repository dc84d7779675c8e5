// The page: reads the form, shows pictures as they come, keeps the finished ones.

import { listModels, streamEvents } from "./api.js";
import { Card, blobOf, finishedCard } from "./cards.js";
import { openEditor } from "./editor.js";
import * as history from "./history.js";

const STAGES = 3; // partial pictures asked for, the most there may be
const NUMBERS = ["n", "seed", "guidance_scale", "rounds"];
const at = (id) => document.getElementById(id);
let running = null; // an AbortController while pictures are being drawn

// --- settings ---

function settings() {
  const given = { size: at("size").value };
  for (const name of NUMBERS) if (at(name).value !== "") given[name] = Number(at(name).value);
  return given;
}

function use(entry) {
  at("prompt").value = entry.prompt;
  for (const name of [...NUMBERS, "size"]) at(name).value = entry.settings[name] ?? "";
  at("size").value = entry.size;
  at("seed").value = entry.seed;
  at("n").value = 1;
  at("prompt").focus();
}

async function connect() {
  try {
    const [model] = await listModels(at("key").value);
    at("model").textContent = model.id;
    const sizes = model.sizes.map((size) => new Option(size, size));
    at("size").replaceChildren(new Option("auto", "auto"), ...sizes);
    showError(null);
  } catch (error) {
    at("model").textContent = "not connected";
    at("access").open = true;
    showError(error);
  }
}

// --- drawing ---

async function draw(path, body, { prompt, count, size, kept, edited }) {
  showError(null);
  running?.abort();
  const mine = (running = new AbortController());
  const cards = Array.from({ length: count }, (_, index) => new Card(size, index + 1, STAGES));
  at("empty").hidden = true;
  at("now").replaceChildren(...cards.map((card) => card.item));
  busy(true);
  let finished = 0;
  try {
    say(`Drawing ${count === 1 ? "a picture" : `${count} pictures`}…`);
    for await (const event of streamEvents(path, body, at("key").value, mine.signal)) {
      const card = cards[event.image_index];
      const blob = blobOf(event.b64_json);
      if (event.type.endsWith(".partial_image")) {
        card.show(blob, event.partial_image_index + 1, event.size);
        continue;
      }
      const entry = { blob, prompt, seed: event.seed, size: event.size, settings: kept, edited };
      await remember(entry);
      card.finish(entry, actions());
      say(`${++finished} of ${count} finished.`);
    }
    if (finished < count) throw new Error("The connection ended too early.");
  } catch (error) {
    for (const card of cards) if (card.item.classList.contains("drawing")) card.item.remove();
    if (mine.signal.aborted) say("Stopped.");
    else [say(""), showError(error)];
  } finally {
    if (running === mine) [(running = null), busy(false)];
    at("empty").hidden = at("now").childElementCount > 0;
  }
}

function generate() {
  const prompt = at("prompt").value.trim();
  const kept = settings();
  for (const name of NUMBERS) {
    const field = at(name);
    if (!field.validity.valid) return showError({ message: `${labelOf(field)}: ${field.validationMessage}`, param: name });
  }
  if (!prompt) return showError({ message: "Prompt: say what the picture shall show.", param: "prompt" });
  const body = { prompt, ...kept, stream: true, partial_images: STAGES };
  draw("/v1/images/generations", body, { prompt, count: kept.n ?? 1, size: kept.size, kept, edited: false });
}

function edit(entry) {
  openEditor(entry, (prompt, mask) => {
    const kept = { ...settings(), n: 1, size: entry.size };
    const form = new FormData();
    form.append("image", entry.blob, "image.png");
    form.append("mask", mask, "mask.png");
    const fields = { prompt, ...kept, stream: true, partial_images: STAGES };
    for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
    draw("/v1/images/edits", form, { prompt, count: 1, size: entry.size, kept, edited: true });
  });
}

// --- history ---

const actions = () => ({ Edit: edit, Reuse: use });

async function remember(entry) {
  try {
    entry.id = await history.keep(entry);
    await showHistory();
  } catch {
    // A browser that keeps nothing still shows the picture.
  }
}

async function showHistory() {
  const entries = await history.all();
  const remove = async (entry) => [await history.forget(entry.id), await showHistory()];
  const cards = entries.map((entry) => finishedCard(entry, { ...actions(), Remove: remove }));
  for (const image of at("history").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  at("history").replaceChildren(...cards.map((card) => card.item));
  at("clear").disabled = entries.length === 0;
}

// --- what the page says ---

function say(text) {
  at("status").textContent = text;
}

function labelOf(field) {
  return document.querySelector(`label[for="${field.id}"]`)?.textContent ?? field.id;
}

function showError(error) {
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  at("error").hidden = !error;
  at("error").textContent = error ? error.message : "";
  const field = error?.param && at(error.param);
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

function busy(is) {
  at("now").setAttribute("aria-busy", String(is));
  at("stop").disabled = !is;
  at("draw").textContent = is ? "Drawing…" : "Draw";
}

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  at("theme").setAttribute("aria-pressed", String(dark));
  at("theme").textContent = dark ? "Light" : "Dark";
}

// --- wiring ---

const preferred = localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
theme(preferred === "dark");
at("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme !== "dark";
  localStorage.setItem("theme", dark ? "dark" : "light");
  theme(dark);
});
at("form").addEventListener("submit", (event) => [event.preventDefault(), generate()]);
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) [event.preventDefault(), generate()];
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("editor").open) running?.abort();
});
at("stop").addEventListener("click", () => running?.abort());
at("dice").addEventListener("click", () => (at("seed").value = Math.floor(Math.random() * 2 ** 31)));
at("clear").addEventListener("click", async () => [await history.forgetAll(), await showHistory()]);
at("key").value = sessionStorage.getItem("key") ?? "";
at("key").addEventListener("change", () => [sessionStorage.setItem("key", at("key").value), connect()]);
connect();
showHistory().catch(() => {});
