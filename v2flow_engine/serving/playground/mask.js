// A canvas that is painted on -> a mask for /v1/images/edits: a PNG, transparent where the picture is to change.

const STEP = 4; // of the keyboard's brush, in the picture's pixels

// Stripes, so that it shows on a picture of any colour.
function stripes(context) {
  const size = Math.max(4, context.canvas.width >> 4);
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const own = tile.getContext("2d");
  own.fillStyle = "rgb(255 255 255 / 80%)";
  own.fillRect(0, 0, size, size);
  own.fillStyle = "rgb(84 67 214 / 80%)";
  own.beginPath();
  own.moveTo(0, size / 2);
  own.lineTo(size / 2, 0);
  own.lineTo(0, 0);
  own.fill();
  own.beginPath();
  own.moveTo(size, 0);
  own.lineTo(size, size / 2);
  own.lineTo(size / 2, size);
  own.lineTo(0, size);
  own.fill();
  return context.createPattern(tile, "repeat");
}

export class MaskCanvas {
  constructor(canvas, brush) {
    this.canvas = canvas;
    this.brush = brush;
    this.paper = document.createElement("canvas"); // opaque where painted
    this.paper.getContext("2d", { willReadFrequently: true });
    this.erasing = false;
    this.last = null;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.last && this.strokeTo(this.pointOf(event)));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (this.last = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.show());
  }

  reset(width, height) {
    for (const each of [this.canvas, this.paper]) [each.width, each.height] = [width, height];
    this.cursor = { x: width / 2, y: height / 2 };
    this.erasing = false;
    this.show();
  }

  fill(all) {
    const context = this.paper.getContext("2d");
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, this.paper.width, this.paper.height);
    if (all) context.fillRect(0, 0, this.paper.width, this.paper.height);
    this.show();
  }

  // The share of the picture that is painted, 0 to 1.
  get painted() {
    const { width, height } = this.paper;
    const { data } = this.paper.getContext("2d").getImageData(0, 0, width, height);
    let count = 0;
    for (let i = 3; i < data.length; i += 4) count += data[i] > 127;
    return count / (width * height);
  }

  toBlob() {
    const out = document.createElement("canvas");
    [out.width, out.height] = [this.paper.width, this.paper.height];
    const context = out.getContext("2d");
    context.fillRect(0, 0, out.width, out.height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.paper, 0, 0);
    return new Promise((resolve) => out.toBlob(resolve, "image/png"));
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.pointOf(event);
    this.strokeTo(this.last);
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    this.last = { ...this.cursor };
    if (move) {
      this.cursor.x = Math.min(this.canvas.width, Math.max(0, this.cursor.x + move[0] * STEP));
      this.cursor.y = Math.min(this.canvas.height, Math.max(0, this.cursor.y + move[1] * STEP));
    }
    if (!move || event.shiftKey) this.strokeTo(this.cursor);
    this.last = null;
    this.show();
  }

  pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.canvas.height,
    };
  }

  strokeTo(point) {
    const context = this.paper.getContext("2d");
    context.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = this.width;
    context.beginPath();
    context.moveTo(this.last.x, this.last.y);
    context.lineTo(point.x + 0.01, point.y);
    context.stroke();
    this.last = this.cursor = { ...point };
    this.show();
  }

  get width() {
    return (Number(this.brush.value) / 100) * this.canvas.width;
  }

  show() {
    const { canvas, paper } = this;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(paper, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = stripes(context);
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
    if (canvas.matches(":focus-visible")) {
      context.strokeStyle = "white";
      context.lineWidth = Math.max(1, canvas.width / 128);
      context.beginPath();
      context.arc(this.cursor.x, this.cursor.y, this.width / 2, 0, 7);
      context.stroke();
    }
    const share = Math.round(100 * this.painted);
    canvas.setAttribute("aria-label", share ? `Mask: ${share} % painted` : "Mask: nothing painted");
  }
}
