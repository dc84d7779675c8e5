// A picture, drawn or being drawn -> a list item that shows it. Knows nothing of the server.

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function ratioOf(size) {
  const match = /^(\d+)x(\d+)$/.exec(size);
  return match ? `${match[1]} / ${match[2]}` : "1";
}

export function blobOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

// One that is being drawn: show(blob, stage) for a partial stage, then finish(entry, actions).
export class Card {
  constructor(size, number, stages) {
    this.item = element("li", "card drawing");
    this.frame = element("div", "frame");
    this.frame.style.setProperty("--ratio", ratioOf(size));
    this.progress = element("progress");
    [this.progress.max, this.progress.value] = [stages + 1, 0];
    this.progress.setAttribute("aria-label", `Picture ${number}`);
    this.about = element("div", "about");
    this.about.append(element("p", "facts", "writing visual tokens"));
    this.item.append(this.frame, this.progress, this.about);
    this.item.dataset.stages = "0";
  }

  show(blob, stage, size) {
    this.frame.style.setProperty("--ratio", ratioOf(size));
    this.image(blob, `Stage ${stage} of the picture`);
    this.progress.value = stage;
    this.item.dataset.stages = String(stage);
    this.about.replaceChildren(element("p", "facts", `drawing, stage ${stage}`));
  }

  finish(entry, actions) {
    this.item.classList.remove("drawing");
    this.progress.remove();
    this.frame.style.setProperty("--ratio", ratioOf(entry.size));
    this.image(entry.blob, entry.prompt);
    this.about.replaceChildren(...describe(entry, actions, this.image_url));
    this.item.dataset.seed = String(entry.seed);
  }

  image(blob, alt) {
    const image = element("img");
    if (this.image_url) URL.revokeObjectURL(this.image_url);
    this.image_url = image.src = URL.createObjectURL(blob);
    image.alt = alt;
    this.frame.replaceChildren(image);
  }
}

// One of the history.
export function finishedCard(entry, actions) {
  const card = new Card(entry.size, 0, 0);
  card.finish(entry, actions);
  return card;
}

function describe(entry, actions, url) {
  const parts = [element("p", "", entry.prompt)];
  parts.push(element("p", "facts", `${entry.edited ? "edited, " : ""}${entry.size}, seed ${entry.seed}`));
  const buttons = element("div", "buttons");
  for (const [name, act] of Object.entries(actions)) {
    const button = element("button", "", name);
    button.type = "button";
    button.setAttribute("aria-label", `${name}: ${entry.prompt}, seed ${entry.seed}`);
    button.addEventListener("click", () => act(entry));
    buttons.append(button);
  }
  const link = element("a", "", "Save");
  [link.href, link.download] = [url, `v2flow-${entry.seed}.png`];
  link.setAttribute("aria-label", `Save: ${entry.prompt}, seed ${entry.seed}`);
  buttons.append(link);
  return [...parts, buttons];
}
