"use strict";
// Pictures: each is in the page once, as base64 text. It is decoded when it comes into sight, and
// boxes and maps lie on top of it.

const MAX_DECODED = 200; // decoded pictures; the least recently used is dropped first
const urls = new Map(); // number -> blob URL
const maps = new Map(); // number -> promise of a map's ImageData
const parsed = new Promise((done) => {
  if (document.readyState !== "loading") done();
  else addEventListener("DOMContentLoaded", done, { once: true });
});

/** A block of data by its id; waits for it, as the browser may still be reading the page. */
async function block(id) {
  const element = document.getElementById(id);
  // A block at the position of the parser may be incomplete until the page ends.
  if (element?.nextSibling) return element;
  await parsed;
  return document.getElementById(id);
}

/** Make an element with text or other elements in it; text is never read as markup. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function blob(data) {
  const bytes = Uint8Array.from(atob(data.textContent), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type: data.dataset.type });
}

async function url(number) {
  let known = urls.get(number);
  if (!known) {
    const data = await block(`i${number}`);
    if (!data) return null;
    known = URL.createObjectURL(blob(data));
  }
  urls.delete(number);
  urls.set(number, known); // most recent last
  if (urls.size > MAX_DECODED) {
    const [oldest, old] = urls.entries().next().value;
    URL.revokeObjectURL(old);
    urls.delete(oldest);
  }
  return known;
}

/** The pixels of a map: red is the entropy of the base, green the share of replayed layers. */
function pixels(number) {
  if (!maps.has(number)) {
    maps.set(number, (async () => {
      const data = await block(`i${number}`);
      if (!data) return null;
      const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
      const image = await createImageBitmap(blob(data), options);
      const canvas = new OffscreenCanvas(image.width, image.height);
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      return context.getImageData(0, 0, image.width, image.height);
    })());
  }
  return maps.get(number);
}

const RAMP = [[38, 22, 92], [44, 82, 160], [30, 146, 150], [122, 200, 90], [250, 226, 60]];

function ramp(share) {
  const at = Math.min(share, 0.9999) * (RAMP.length - 1);
  const low = RAMP[Math.floor(at)], high = RAMP[Math.floor(at) + 1];
  return low.map((value, i) => Math.round(value + (high[i] - value) * (at % 1)));
}

/** Draw one step in time of a map: colours are entropies, dots are replayed tokens. */
async function paint(canvas) {
  const { image, rows, columns, time } = canvas.map;
  const data = await pixels(image);
  if (!data || canvas.painted) return;
  canvas.painted = true;
  const side = Math.max(4, Math.min(40, Math.floor(1200 / Math.max(rows, columns))));
  canvas.width = columns * side;
  canvas.height = rows * side;
  const context = canvas.getContext("2d");
  const first = time * rows * columns;
  const [low, high] = extent(data);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const at = 4 * (first + y * columns + x);
      const share = (data.data[at] - low) / Math.max(1, high - low);
      context.fillStyle = `rgba(${ramp(share).join()}, 0.55)`;
      context.fillRect(x * side, y * side, side, side);
      const replayed = data.data[at + 1] / 255;
      if (!replayed) continue;
      context.beginPath();
      context.arc((x + 0.5) * side, (y + 0.5) * side, side * (0.06 + 0.09 * replayed), 0, 7);
      context.fillStyle = "#fff";
      context.fill();
      if (side > 9) {
        context.lineWidth = Math.max(1, side / 28);
        context.strokeStyle = "rgba(0, 0, 0, 0.75)";
        context.stroke();
      }
    }
  }
}

/** The range of entropies in one map; colours span it, because few entropies are near the maximum. */
function extent({ data }) {
  let low = 255, high = 0;
  for (let at = 0; at < data.length; at += 4) {
    low = Math.min(low, data[at]);
    high = Math.max(high, data[at]);
  }
  return [low, high];
}

const areMapsOn = () => document.body.classList.contains("maps");

const visibility = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    if (target.localName === "canvas") {
      if (areMapsOn()) paint(target);
      continue;
    }
    visibility.unobserve(target);
    url(Number(target.dataset.number)).then((address) => {
      if (address) target.src = address;
      else target.replaceWith(el("span", { class: "missing" }, "not in the folder of the run"));
    });
  }
}, { rootMargin: "600px", scrollMargin: "600px" }); // the panes scroll, not the page

/** Observe all maps anew after they were switched on: each is drawn when it is in sight. */
function mapsSwitched() {
  for (const canvas of document.querySelectorAll("canvas.map")) {
    visibility.unobserve(canvas);
    visibility.observe(canvas);
  }
}

/**
 * Make a picture with numbered boxes and, if it has one, its map. A box is {step, box} in pixels of
 * picture `of`, which this picture may show resized.
 */
function picture(number, { of = number, boxes = [], map = null, label = "", enlarge = true } = {}) {
  const data = document.getElementById(`i${number}`);
  const width = Number(data?.dataset.width) || null, height = Number(data?.dataset.height) || null;
  const image = el("img", { "data-number": number, alt: label, width, height });
  const frame = el(enlarge ? "button" : "div", {
    class: "picture",
    "aria-label": enlarge ? `Enlarge ${label}` : null,
  }, image);
  visibility.observe(image);
  if (width) {
    frame.style.aspectRatio = `${width} / ${height}`;
    frame.style.setProperty("--aspect", width / height);
  }
  if (width && width < 96) image.style.imageRendering = "pixelated";
  if (map) {
    const canvas = el("canvas", { class: "map", "aria-hidden": "true" });
    canvas.map = map;
    frame.append(canvas);
    visibility.observe(canvas);
  }
  const draw = ({ dataset: { width: across, height: down } }) => {
    for (const { step, box: [left, top, right, bottom] } of boxes) {
      const box = el("span", { class: "box", "data-step": step }, el("b", {}, String(step + 1)));
      box.style.left = `${100 * left / across}%`;
      box.style.top = `${100 * top / down}%`;
      box.style.width = `${100 * (right - left) / across}%`;
      box.style.height = `${100 * (bottom - top) / down}%`;
      // The number stands above its box, or inside of it where there is no room above.
      if (top / down < 0.06) box.classList.add("inside");
      frame.append(box);
    }
  };
  const original = document.getElementById(`i${of}`);
  if (original) draw(original);
  else if (boxes.length) block(`i${of}`).then((data) => { if (data) draw(data); });
  if (enlarge) frame.addEventListener("click", () => showLarge(number, { of, boxes, map, label }));
  return frame;
}

function showLarge(number, options) {
  const dialog = document.getElementById("large");
  const close = el("button", { class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×");
  const large = picture(number, { ...options, enlarge: false });
  const explanation = options.map ? legend(options.map) : null;
  dialog.replaceChildren(large, ...(explanation ? [explanation] : []), close);
  dialog.showModal();
}

/** Explain the colours of a map, in nats, and its dots. */
function legend(map) {
  const scale = el("span", { class: "scale", "aria-hidden": "true" });
  const low = el("span", {}, "low"), high = el("span", {}, "high");
  pixels(map.image).then((data) => {
    if (!data || !map.max) return;
    const [least, most] = extent(data);
    low.textContent = (map.max * least / 255).toFixed(2);
    high.textContent = `${(map.max * most / 255).toFixed(2)} nats`;
  });
  return el("p", { class: "legend" }, el("span", { class: "word" }, "base entropy"), low, scale, high,
    el("span", { class: "word" }, el("span", { class: "dot", "aria-hidden": "true" }), " replayed"));
}
