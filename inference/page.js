"use strict";
// The report's behaviour. SVG filters colour the maps of train ids, since the page cannot read pixels: opened from a
// file, it may show the images next to it but not read them.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (selector) => document.querySelector(selector);
const LAYERS = data.labelled ? ["picture", "prediction", "truth", "difference"] : ["picture", "prediction"];
if (data.images.some((image) => image.confidence !== null)) LAYERS.push("confidence");
const shown = data.classes.map(() => true);
const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1));

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function swatch(oneClass) {
  const box = make("span", { className: "swatch" });
  box.style.background = `rgb(${oneClass.color})`;
  return box;
}

// A group of buttons, one per name, of which one is pressed; `chosen` is called with its name.
function choice(box, names, start, chosen) {
  const buttons = names.map((name) =>
    make("button", { textContent: name, onclick: () => press(name) }));
  function press(name) {
    for (const button of buttons) button.setAttribute("aria-checked", button.textContent === name);
    chosen(name);
  }
  for (const button of buttons) button.setAttribute("role", "radio");
  box.append(...buttons);
  press(start);
}

// Filters: train id (red or green of the map) -> colour of the class; transparent for no class or a hidden one.

function table(entry) {
  return Array.from({ length: 256 }, (_, id) => (id < data.classes.length ? entry(data.classes[id], id) : 0)).join(" ");
}

function drawFilters() {
  const on = table((_, id) => (shown[id] ? 1 : 0));
  // Slightly more than the value: browsers truncate or round it to one of 255 steps.
  const color = [0, 1, 2].map((k) => table((oneClass) => Math.min(1, (oneClass.color[k] + 0.25) / 255)));
  const pick = (channel) => [0, 1, 2].map((k) => (k === channel ? 1 : 0)).join(" ");
  const filter = (name, channel, wrongOnly) => `
    <filter id="${name}" color-interpolation-filters="sRGB" x="0" y="0" width="100%" height="100%">
      <feColorMatrix in="SourceGraphic" values="${`${pick(channel)} 0 0 `.repeat(3)} 0 0 0 0 1"/>
      <feComponentTransfer result="colored">
        ${["R", "G", "B"].map((k, i) => `<feFunc${k} type="discrete" tableValues="${color[i]}"/>`).join("")}
      </feComponentTransfer>
      <feColorMatrix in="SourceGraphic" values="${"0 0 0 0 0 ".repeat(3)} ${pick(channel)} 0 0"/>
      <feComponentTransfer result="on"><feFuncA type="discrete" tableValues="${on}"/></feComponentTransfer>
      <feColorMatrix in="SourceGraphic" values="${"0 0 0 0 0 ".repeat(3)} ${pick(2)} 0 0"/>
      <feComponentTransfer result="wrong"><feFuncA type="discrete" tableValues="0 1"/></feComponentTransfer>
      <feComposite in="colored" in2="on" operator="in" result="chosen"/>
      ${wrongOnly ? '<feComposite in="chosen" in2="wrong" operator="in"/>' : ""}
    </filter>`;
  // Twice the blue without its first bit: dark where the network is sure, yellow where not.
  const doubt = [[1, 0.2], [0.85, 0.1], [0.2, 0.35]].map(([unsure, sure]) =>
    Array.from({ length: 256 }, (_, blue) => unsure + (sure - unsure) * (blue % 128) / 127).join(" "));
  find("defs").innerHTML = filter("prediction", 0, false) + filter("truth", 1, false) + filter("difference", 0, true) + `
    <filter id="confidence" color-interpolation-filters="sRGB" x="0" y="0" width="100%" height="100%">
      <feColorMatrix in="SourceGraphic" values="${"0 0 1 0 0 ".repeat(3)} 0 0 0 0 1"/>
      <feComponentTransfer>
        ${["R", "G", "B"].map((k, i) => `<feFunc${k} type="discrete" tableValues="${doubt[i]}"/>`).join("")}
      </feComponentTransfer>
    </filter>`;
}

// Head, classes, confusion

function drawHead() {
  find("h1").textContent = data.title;
  find("#about").textContent = data.about;
  for (const [name, value] of data.tiles) find(".tiles").append(make("div", { className: "tile" }, make("b", { textContent: value }), name));
  find("pre").textContent = JSON.stringify(data.settings, null, 1);
  find("#scored").hidden = !data.labelled;
  find("#reliability").hidden = !data.reliability;
  if (data.reliability) find("#reliability img").src = data.reliability;
}

const COLUMNS = [["class", "class"], ["iou", ""], ["iou", "IoU"], ["boundary_iou", "boundary IoU"],
  ["boundary_f", "boundary F"], ["precision", "precision"], ["recall", "recall"], ["f1", "F1"], ["share", "share"]];
const WIDE = ["precision", "recall", "f1", "share"];

// Entries without a number come last in either order.
function byNumber(x, y, sign) {
  return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
}

function drawClasses(key, downwards) {
  const numbered = data.classes.map((oneClass, id) => ({ ...oneClass, class: id }));
  numbered.sort((a, b) => byNumber(a[key], b[key], downwards ? -1 : 1));
  find("thead").replaceChildren(make("tr", {}, ...COLUMNS.map(([name, title]) => {
    const head = make("th", { className: WIDE.includes(name) ? "wide" : "" });
    if (title) head.append(make("button", { textContent: title, onclick: () => drawClasses(name, name === key && !downwards) }));
    if (title && name === key) head.setAttribute("aria-sort", downwards ? "descending" : "ascending");
    return head;
  })));
  find("tbody").replaceChildren(...numbered.map((oneClass) => {
    const bar = make("div", { className: "bar" });
    if (oneClass.iou !== null) {
      const fill = make("i");
      fill.style.width = `${100 * oneClass.iou}%`;
      fill.style.background = `rgb(${oneClass.color})`;
      bar.append(fill);
    }
    if (oneClass.boundary_iou !== null) {
      const mark = make("u");
      mark.style.left = `${100 * oneClass.boundary_iou}%`;
      bar.append(mark);
    }
    return make("tr", {}, make("td", {}, swatch(oneClass), oneClass.name), make("td", {}, bar),
      ...COLUMNS.slice(2).map(([name]) => make("td", {
        textContent: percent(oneClass[name]), className: WIDE.includes(name) ? "wide" : "" })));
  }));
}

function drawConfusion() {
  const names = data.classes.map((oneClass) => oneClass.name);
  const share = data.confusion.map((row) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count) => (total ? count / total : 0));
  });
  const tell = (t, p) => t === p
    ? `${percent(share[t][p])} % of the true ${names[t]} was found.`
    : `${percent(share[t][p])} % of the true ${names[t]} was taken for ${names[p]} (${data.confusion[t][p].toLocaleString()} ${data.confusion[t][p] === 1 ? "pixel" : "pixels"}).`;
  const heat = find(".heat");
  const side = names.length > 30 ? 12 : 22;
  heat.style.gridTemplateColumns = `auto repeat(${names.length}, ${side}px)`;
  heat.style.gridAutoRows = `${side}px`;
  heat.style.gridTemplateRows = "auto";
  const cells = [make("span"), ...names.map((name) => make("span", { className: "top", textContent: name }))];
  names.forEach((name, t) => {
    cells.push(make("span", { textContent: name }));
    names.forEach((_, p) => {
      const cell = make("i", { className: t === p ? "right" : "", title: tell(t, p) });
      cell.style.setProperty("--share", Math.sqrt(share[t][p]).toFixed(3)); // the root shows small shares too
      cell.onpointerenter = () => { find("#told").textContent = tell(t, p); };
      cells.push(cell);
    });
  });
  heat.replaceChildren(...cells);
  const wrong = names.flatMap((_, t) => names.map((__, p) => [t, p])).filter(([t, p]) => t !== p && data.confusion[t][p] > 0);
  wrong.sort(([t, p], [u, q]) => data.confusion[u][q] - data.confusion[t][p]);
  find(".notes ol").replaceChildren(...wrong.slice(0, 8).map(([t, p]) => make("li", { textContent: tell(t, p) })));
  const absent = data.classes.filter((oneClass) => oneClass.iou === null).map((oneClass) => oneClass.name);
  find("#absent").textContent = absent.length ? `Not in the truth, left out of the means: ${absent.join(", ")}.` : "";
}

// Images

let order = []; // positions in data.images, as shown
const cards = data.images.map((image, i) => {
  const frame = make("span", { className: "frame" });
  frame.style.aspectRatio = `${image.size[0]} / ${image.size[1]}`;
  return make("button", { className: "card", onclick: () => view.open(i) }, frame,
    make("span", { className: "name", textContent: image.name, title: image.name }),
    make("span", { className: "score", textContent: image.iou === null ? "" : `mIoU ${percent(image.iou)}` }));
});

// Images are decoded when their card comes near the viewport.
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    const image = data.images[cards.indexOf(target)];
    if (!isIntersecting || !image.photo) continue;
    target.firstChild.append(
      make("img", { className: "photo", alt: "", src: image.photo }), make("img", { className: "map", alt: "", src: image.map }));
    watcher.unobserve(target);
  }
}, { rootMargin: "600px" });

function sortings() {
  const by = (value, sign) => (a, b) => byNumber(value(data.images[a]), value(data.images[b]), sign) || a - b;
  const found = { "name": (a, b) => a - b };
  if (LAYERS.includes("confidence")) found["least confident first"] = by((image) => image.confidence, 1);
  if (!data.labelled) return found;
  return {
    "worst mIoU first": by((image) => image.iou, 1),
    "best mIoU first": by((image) => image.iou, -1),
    "worst boundary IoU first": by((image) => image.boundary_iou, 1),
    ...found,
    ...Object.fromEntries(data.classes.map((oneClass, id) =>
      [`worst ${oneClass.name} first`, by((image) => image.by_class[id], 1)])),
  };
}

function arrange() {
  const wanted = find("#search").value.trim().toLowerCase();
  order = data.images.map((_, i) => i).filter((i) => data.images[i].name.toLowerCase().includes(wanted));
  order.sort(sortings()[find("#sort").value]);
  find("#grid").replaceChildren(...order.map((i) => cards[i]));
  find("#count").textContent = `${order.length === cards.length ? "" : `${order.length} of `}${cards.length} ${cards.length === 1 ? "image" : "images"}`;
}

// The large view

const view = {
  current: 0,
  open(i) {
    this.current = i;
    const image = data.images[i];
    find("#name").textContent = image.name + (image.iou === null ? "" : `: mIoU ${percent(image.iou)}, pixel accuracy ${percent(image.accuracy)}`)
      + (image.confidence === null ? "" : `, confidence ${percent(image.confidence)}`);
    find("#stage").style.setProperty("--ratio", image.size[0] / image.size[1]);
    find("#stage").style.setProperty("--full", `${image.size[0] / devicePixelRatio}px`);
    this.show(".photo", image.photo ?? "");
    this.show(".map", image.map ?? "");
    find("#state").textContent = data.pictures ? "" : "thumbnails only; --dump_images keeps full images";
    if (data.pictures) {
      this.load(i, ".photo", `rgb/${image.file}.png`);
      this.load(i, ".map", `maps/${image.file}.png`);
    }
    const place = order.indexOf(i);
    find("#previous").disabled = place <= 0;
    find("#next").disabled = place < 0 || place >= order.length - 1;
    if (!find("dialog").open) find("dialog").showModal();
  },
  show(layer, source) {
    for (const picture of document.querySelectorAll(`#stage ${layer}`)) picture.src = source;
  },
  load(i, layer, source) {
    const full = new Image();
    full.onload = () => { if (this.current === i) this.show(layer, source); };
    full.onerror = () => { if (this.current === i) find("#state").textContent = `file not found: ${source}`; };
    full.src = source;
  },
  step(by) {
    const next = order[order.indexOf(this.current) + by];
    if (next !== undefined) this.open(next);
  },
  wipe(share) {
    find("#wipe").value = share;
    find("#stage").style.setProperty("--wipe", `${share}%`);
  },
};

function prepareView() {
  choice(find("#left"), LAYERS, "picture", (name) => { find(".below").dataset.layer = name; });
  choice(find("#right"), LAYERS, data.labelled ? "difference" : "prediction", (name) => { find(".above").dataset.layer = name; });
  find("#previous").onclick = () => view.step(-1);
  find("#next").onclick = () => view.step(1);
  find("#close").onclick = () => find("dialog").close();
  find("#zoom").onclick = (event) => event.target.setAttribute("aria-pressed", find("#stage").classList.toggle("full"));
  find("#wipe").oninput = (event) => view.wipe(event.target.value);
  find("#strength").oninput = (event) => document.body.style.setProperty("--strength", event.target.value);
  find("dialog").onkeydown = (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") view.step(-1);
    if (event.key === "ArrowRight") view.step(1);
  };
  const stage = find("#stage");
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    view.wipe(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
  };
  stage.onpointerdown = (event) => { stage.setPointerCapture(event.pointerId); drag(event); };
  stage.onpointermove = (event) => { if (event.buttons) drag(event); };
  view.wipe(50);
}

function prepareLegend() {
  const buttons = data.classes.map((oneClass, id) => make("button", { onclick: () => turn([id], !shown[id]) }, swatch(oneClass), oneClass.name));
  function turn(ids, on) {
    for (const id of ids) {
      shown[id] = on;
      buttons[id].setAttribute("aria-pressed", on);
    }
    drawFilters();
  }
  const all = data.classes.map((_, id) => id);
  find("#legend").append(...buttons);
  find("#all").onclick = () => turn(all, true);
  find("#none").onclick = () => turn(all, false);
  turn(all, true);
}

drawHead();
prepareLegend();
prepareView();
if (data.labelled) {
  drawClasses("iou", false);
  drawConfusion();
}
find("#sort").append(...Object.keys(sortings()).map((name) => make("option", { textContent: name })));
choice(find("#layer"), LAYERS, "prediction", (name) => {
  for (const card of cards) card.firstChild.dataset.layer = name;
});
find("#search").oninput = arrange;
find("#sort").onchange = arrange;
arrange();
for (const card of cards) watcher.observe(card);
