// The 2-D map: a canvas with a dot (or a small picture) an image, names at the clusters' middles, and a legend that filters.
const MAP_MARGIN = 30;
const MAX_ZOOM = 40;

// Places are from 0 to 1 on the whole map, or [across, down] in CSS pixels of its canvas.
/** @typedef {{ x: number, y: number }} Place */
/** @typedef {Place & { image: number, cluster: number | null }} MapPoint */
/** @typedef {Place & { name: string, half: number }} PlacedName */
/** @typedef {ReturnType<typeof newMap>} PointMap */

/** Bring the map to life; returns a function that redraws it in the colours of the moment. @param {MapPlaces} places */
function startMap(places) {
  const map = newMap(mapPoints(places));
  new ResizeObserver(() => redraw(map)).observe(map.stage);
  startMapPointer(map);
  startMapKeys(map);
  startMapButtons(map);
  startLegend(map);
  return () => {
    map.colors = readColors(map.stage);
    redraw(map);
  };
}

/** @param {MapPoint[]} points */
function newMap(points) {
  const canvas = one(document, "#map-canvas", HTMLCanvasElement);
  const stage = one(document, ".map-stage");
  return {
    canvas,
    stage,
    context: /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")),
    points,
    middles: middlesOf(points),
    size: { width: 0, height: 0 },
    view: { zoom: 1, left: 0, top: 0 },
    only: /** @type {Set<number>} */ (new Set()),
    peek: /** @type {number | null} */ (null),
    active: /** @type {MapPoint | null} */ (null),
    pictures: report.sheets.length > 0,
    drawn: /** @type {MapPoint[]} */ ([]),
    pictured: /** @type {Map<MapPoint, [number, number]>} */ (new Map()),
    colors: readColors(stage),
    pending: false,
  };
}

/** Points in 0..1 both ways, stretched over the whole map. @param {MapPlaces} places */
function mapPoints({ images: indexes, x, y }) {
  const [xLow, xHigh, yLow, yHigh] = [Math.min(...x), Math.max(...x), Math.min(...y), Math.max(...y)];
  return indexes.map((index, position) => ({
    image: index,
    cluster: images[index].cluster,
    x: xHigh > xLow ? (x[position] - xLow) / (xHigh - xLow) : 0.5,
    y: yHigh > yLow ? (y[position] - yLow) / (yHigh - yLow) : 0.5,
  }));
}

/**
 * The median place of each cluster's points across, and where most of them end below; the largest cluster first.
 * @param {MapPoint[]} points
 */
function middlesOf(points) {
  /** @type {Map<number, MapPoint[]>} */
  const members = new Map();
  for (const point of points) {
    if (point.cluster === null) continue;
    const own = members.get(point.cluster);
    if (own) own.push(point);
    else members.set(point.cluster, [point]);
  }
  /** @type {(values: number[], share: number) => number} */
  const quantile = (values, share) => values.sort((a, b) => a - b)[Math.floor(share * (values.length - 1))];
  return [...members]
    .sort(([a], [b]) => a - b)
    .map(([cluster, own]) => ({
      cluster,
      x: quantile(own.map((point) => point.x), 0.5),
      y: quantile(own.map((point) => point.y), 0.95),
    }));
}

/** @param {PointMap} map */
function redraw(map) {
  if (map.pending) return;
  map.pending = true;
  requestAnimationFrame(() => {
    map.pending = false;
    draw(map);
  });
}

/** @param {PointMap} map */
function draw(map) {
  const { canvas, context } = map;
  const { width, height } = map.stage.getBoundingClientRect();
  const density = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
  }
  map.size = { width, height };
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  const shown = map.points.filter((point) => isOn(map, point));
  for (const point of map.points) if (!isOn(map, point)) drawDot(map, point, 0.1);
  const names = placeNames(map);
  map.drawn = shown;
  map.pictured.clear();
  if (map.pictures) drawPictures(map, shown, names);
  else for (const point of shown) drawDot(map, point, 0.85);
  if (map.active) drawRing(map, map.active);
  drawNames(map, names);
}

/** Colours as the browser resolves them for the theme of the moment. @param {HTMLElement} stage */
function readColors(stage) {
  const probe = document.createElement("span");
  probe.hidden = true;
  stage.append(probe);
  /** @param {string} name */
  const read = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const slots = Array.from({ length: 12 }, (_, slot) => read(`--c${slot}`));
  const colors = { panel: read("--panel"), ink: read("--ink"), quiet: read("--quiet"), slots };
  probe.remove();
  return colors;
}

/** @param {PointMap} map @param {MapPoint} point */
function colorOf(map, point) {
  return point.cluster === null ? map.colors.quiet : map.colors.slots[clusters[point.cluster].color];
}

/**
 * A filter keeps its clusters; pointing at the legend shows one for the moment.
 * @param {PointMap} map
 * @param {{ cluster: number | null }} point
 */
function isOn(map, point) {
  if (map.peek !== null) return point.cluster === map.peek;
  return map.only.size === 0 || (point.cluster !== null && map.only.has(point.cluster));
}

/**
 * @param {PointMap} map
 * @param {Place} point
 * @returns {[number, number]}
 */
function toScreen(map, point) {
  const { width, height } = map.size;
  const { zoom, left, top } = map.view;
  return [
    MAP_MARGIN + (point.x - left) * zoom * (width - 2 * MAP_MARGIN),
    MAP_MARGIN + (point.y - top) * zoom * (height - 2 * MAP_MARGIN),
  ];
}

/** Where a point is drawn: a picture may stand beside its place. @param {PointMap} map @param {MapPoint} point */
function placeOf(map, point) {
  return map.pictured.get(point) ?? toScreen(map, point);
}

/** @param {PointMap} map */
function dotRadius(map) {
  const spacing = Math.sqrt((map.size.width * map.size.height) / map.points.length);
  return Math.min(7, Math.max(1.8, spacing * 0.16) * map.view.zoom ** 0.35);
}

/** @param {PointMap} map @param {MapPoint} point @param {number} opacity */
function drawDot(map, point, opacity) {
  const { context } = map;
  const [x, y] = toScreen(map, point);
  context.globalAlpha = opacity;
  context.fillStyle = colorOf(map, point);
  context.beginPath();
  context.arc(x, y, dotRadius(map), 0, 2 * Math.PI);
  context.fill();
  context.globalAlpha = 1;
}

/** @param {PointMap} map @param {MapPoint} point */
function drawRing(map, point) {
  const { context } = map;
  const [x, y] = placeOf(map, point);
  const isPicture = map.pictured.has(point);
  const reach = isPicture ? pictureSide(map) / 2 + 2 : dotRadius(map) + 3;
  context.strokeStyle = map.colors.ink;
  context.lineWidth = 2;
  context.beginPath();
  if (isPicture) context.rect(x - reach, y - reach, 2 * reach, 2 * reach);
  else context.arc(x, y, reach, 0, 2 * Math.PI);
  context.stroke();
}

/** @param {PointMap} map */
function pictureSide(map) {
  const spacing = Math.sqrt((map.size.width * map.size.height) / map.points.length);
  return Math.min(72, Math.max(30, spacing * 0.9) * map.view.zoom ** 0.25);
}

// Cells around a picture's own one that it may move to, the nearest first.
const CELLS_AROUND = [-2, -1, 0, 1, 2]
  .flatMap((right) => [-2, -1, 0, 1, 2].map((down) => [right, down]))
  .filter(([right, down]) => Math.hypot(right, down) <= 2.3)
  .sort((a, b) => Math.hypot(...a) - Math.hypot(...b));

/**
 * Pictures side by side where there is room, at most two places from their own; the others are dots, and pictures on zooming in.
 * @param {PointMap} map
 * @param {MapPoint[]} shown
 * @param {PlacedName[]} names
 */
function drawPictures(map, shown, names) {
  const side = pictureSide(map);
  const [leftmost, topmost] = toScreen(map, { x: 0, y: 0 });
  const cells = new Set();
  /** @type {[MapPoint, number, number][]} */
  const waiting = [];
  /** @type {(point: MapPoint, column: number, row: number) => boolean} */
  const put = (point, column, row) => {
    const [x, y] = [leftmost + (column + 0.5) * side, topmost + (row + 0.5) * side];
    const off = x < side / 2 || y < side / 2 || x > map.size.width - side / 2 || y > map.size.height - side / 2;
    const cell = `${column},${row}`;
    if (off || cells.has(cell) || names.some((name) => covers(name, x, y, side / 2))) return false;
    cells.add(cell);
    map.pictured.set(point, [x, y]);
    return true;
  };
  for (const point of shown) {
    const [x, y] = toScreen(map, point);
    const off = x < 0 || y < 0 || x > map.size.width || y > map.size.height;
    if (off || !images[point.image].tile) continue;
    const [column, row] = [Math.floor((x - leftmost) / side), Math.floor((y - topmost) / side)];
    if (!put(point, column, row)) waiting.push([point, column, row]);
  }
  for (const [point, column, row] of waiting) {
    if (!CELLS_AROUND.some(([right, down]) => put(point, column + right, row + down))) drawDot(map, point, 0.5);
  }
  for (const [point, [x, y]] of map.pictured) drawPicture(map, point, x, y, side);
}

/**
 * Whether the box of a name touches a square around (x, y).
 * @param {PlacedName} name
 * @param {number} x
 * @param {number} y
 * @param {number} half
 */
function covers(name, x, y, half) {
  return Math.abs(name.x - x) < name.half + 5 + half && Math.abs(name.y - y) < 10 + half;
}

/**
 * @param {PointMap} map
 * @param {MapPoint} point
 * @param {number} x
 * @param {number} y
 * @param {number} side
 */
function drawPicture(map, point, x, y, side) {
  const { tile } = images[point.image];
  const picture = tile && sheetImage(tile[0], () => redraw(map));
  if (!picture) {
    drawDot(map, point, 0.85);
    return;
  }
  const [, left, top, width, height] = tile;
  const square = Math.min(width, height);
  const half = side / 2;
  map.context.fillStyle = colorOf(map, point);
  map.context.fillRect(x - half, y - half, side, side);
  map.context.drawImage(
    picture,
    left + (width - square) / 2, top + (height - square) / 2, square, square,
    x - half + 2, y - half + 2, side - 4, side - 4,
  );
}

/**
 * Where names go: below their clusters, the larger clusters first, none over another; among many clusters further
 * apart, to leave the dots in sight.
 * @param {PointMap} map
 */
function placeNames(map) {
  const { context } = map;
  const crowded = map.middles.length > 30;
  const [besides, above] = crowded ? [22, 34] : [8, 22];
  context.font = `600 12.5px ${getComputedStyle(document.body).fontFamily}`;
  const beneath = map.pictures ? pictureSide(map) * 0.8 + 10 : dotRadius(map) + 12;
  /** @type {PlacedName[]} */
  const placed = [];
  for (const middle of map.middles) {
    if (!isOn(map, middle)) continue;
    const name = shorten(clusters[middle.cluster].name);
    const half = context.measureText(name).width / 2;
    const [x, lowest] = toScreen(map, middle);
    const y = Math.min(map.size.height - 14, lowest + beneath);
    const centre = Math.min(map.size.width - half - 8, Math.max(half + 8, x));
    const hidden = x < 0 || y < 0 || x > map.size.width || y > map.size.height;
    /** @param {PlacedName} other */
    const over = (other) => Math.abs(other.x - centre) < other.half + half + besides && Math.abs(other.y - y) < above;
    if (!hidden && !placed.some(over)) placed.push({ name, x: centre, y, half });
  }
  return placed;
}

/** @param {PointMap} map @param {PlacedName[]} names */
function drawNames(map, names) {
  const { context } = map;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const { name, x, y } of names) {
    context.strokeStyle = map.colors.panel;
    context.lineWidth = 4;
    context.globalAlpha = 0.9;
    context.strokeText(name, x, y);
    context.globalAlpha = 1;
    context.fillStyle = map.colors.ink;
    context.fillText(name, x, y);
  }
}

/** @param {string} name */
function shorten(name) {
  return name.length > 26 ? `${name.slice(0, 25)}…` : name;
}

/** @param {PointMap} map @param {number} x @param {number} y */
function pointAt(map, x, y) {
  return nearestWithin(map, map.pictured.keys(), x, y, pictureSide(map) / 2 + 2) ??
    nearestWithin(map, map.drawn, x, y, dotRadius(map) + 5);
}

/**
 * @param {PointMap} map
 * @param {Iterable<MapPoint>} points
 * @param {number} x
 * @param {number} y
 * @param {number} reach
 */
function nearestWithin(map, points, x, y, reach) {
  /** @type {MapPoint | null} */
  let best = null;
  let bestDistance = reach;
  for (const point of points) {
    const [pointX, pointY] = placeOf(map, point);
    const distance = Math.max(Math.abs(pointX - x), Math.abs(pointY - y));
    if (distance < bestDistance) [best, bestDistance] = [point, distance];
  }
  return best;
}

/**
 * Make a point the active one, or none: ring, tip with picture, and for the keyboard the spoken name.
 * @param {PointMap} map
 * @param {MapPoint | null} point
 */
function activate(map, point, spoken = false) {
  if (point === map.active) return;
  map.active = point;
  map.canvas.classList.toggle("over-point", point !== null);
  const tip = one(map.stage, ".map-tip");
  tip.hidden = point === null;
  if (point !== null) {
    const image = images[point.image];
    const name = point.cluster === null ? "in no cluster" : clusters[point.cluster].name;
    const picture = one(tip, ".map-tip-picture");
    picture.hidden = !image.tile;
    if (image.tile) paintWhole(picture, image.tile, 150, 1.6);
    one(tip, ".map-tip-name").textContent = name;
    one(tip, ".map-tip-id").textContent = image.id;
    placeTip(map, tip, point);
    if (spoken) announce(`${name}, ${image.id}`);
  }
  redraw(map);
}

/**
 * Beside the point, on whichever side has room.
 * @param {PointMap} map
 * @param {HTMLElement} tip
 * @param {MapPoint} point
 */
function placeTip(map, tip, point) {
  const [x, y] = placeOf(map, point);
  const { width, height } = map.size;
  const left = x + 16 + tip.offsetWidth < width ? x + 16 : x - 16 - tip.offsetWidth;
  const top = Math.min(height - tip.offsetHeight - 6, Math.max(6, y - tip.offsetHeight / 2));
  tip.style.transform = `translate(${Math.round(Math.max(6, left))}px, ${Math.round(top)}px)`;
}

/** @param {PointMap} map @param {number} factor */
function zoomBy(map, factor, x = map.size.width / 2, y = map.size.height / 2) {
  const { view } = map;
  const zoom = Math.min(MAX_ZOOM, Math.max(1, view.zoom * factor));
  const across = (x - MAP_MARGIN) / (map.size.width - 2 * MAP_MARGIN);
  const down = (y - MAP_MARGIN) / (map.size.height - 2 * MAP_MARGIN);
  view.left += across / view.zoom - across / zoom;
  view.top += down / view.zoom - down / zoom;
  view.zoom = zoom;
  keepInside(map);
}

/** @param {PointMap} map @param {number} x @param {number} y */
function panBy(map, x, y) {
  map.view.left -= x / (map.view.zoom * (map.size.width - 2 * MAP_MARGIN));
  map.view.top -= y / (map.view.zoom * (map.size.height - 2 * MAP_MARGIN));
  keepInside(map);
}

/** @param {PointMap} map */
function keepInside(map) {
  const { view } = map;
  const last = 1 - 1 / view.zoom;
  view.left = Math.min(last, Math.max(0, view.left));
  view.top = Math.min(last, Math.max(0, view.top));
  map.canvas.classList.toggle("pannable", view.zoom > 1);
  activate(map, null);
  redraw(map);
}

/** @param {PointMap} map */
function startMapPointer(map) {
  const { canvas } = map;
  /** @type {Place & { moved: boolean, known: boolean } | null} */
  let press = null;
  canvas.addEventListener("pointerdown", (event) => {
    // A first tap on a touch screen shows a point, a second one follows it: there is no hovering.
    const known = event.pointerType !== "touch" || pointAt(map, event.offsetX, event.offsetY) === map.active;
    press = { x: event.offsetX, y: event.offsetY, moved: false, known };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (press && (press.moved || Math.hypot(event.offsetX - press.x, event.offsetY - press.y) > 4)) {
      if (!press.moved) canvas.setPointerCapture(event.pointerId);
      panBy(map, event.offsetX - press.x, event.offsetY - press.y);
      press = { ...press, x: event.offsetX, y: event.offsetY, moved: true };
    } else if (!press) {
      activate(map, pointAt(map, event.offsetX, event.offsetY));
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const point = press && !press.moved ? pointAt(map, event.offsetX, event.offsetY) : null;
    if (point && press?.known && point.cluster !== null) goToCluster(point.cluster);
    else if (point) activate(map, point);
    press = null;
  });
  canvas.addEventListener("pointercancel", () => { press = null; });
  canvas.addEventListener("pointerleave", () => { if (!press) activate(map, null); });
  canvas.addEventListener("wheel", (event) => {
    // The plain wheel scrolls the page; with Ctrl or Command, and by pinching a touchpad, it zooms.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomBy(map, Math.exp(-event.deltaY / 200), event.offsetX, event.offsetY);
  }, { passive: false });
}

/** @param {PointMap} map */
function startMapKeys(map) {
  /** @type {Record<string, number[]>} */
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  map.canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const direction = directions[event.key];
    if (direction) activate(map, neighborOf(map, direction) ?? map.active, true);
    else if (event.key === "Enter" && map.active && map.active.cluster !== null) goToCluster(map.active.cluster);
    else if (event.key === "+" || event.key === "=") zoomBy(map, 1.5, ...activePlace(map));
    else if (event.key === "-") zoomBy(map, 1 / 1.5, ...activePlace(map));
    else if (event.key === "0") zoomBy(map, 0);
    else if (event.key === "Escape") activate(map, null);
    else return;
    event.preventDefault();
  });
  map.canvas.addEventListener("blur", () => activate(map, null));
}

/** @param {PointMap} map @returns {[number, number] | []} */
function activePlace(map) {
  return map.active ? placeOf(map, map.active) : [];
}

/**
 * The nearest visible point in a direction, from the active one; without one, the point nearest the middle.
 * @param {PointMap} map
 * @param {number[]} direction
 */
function neighborOf(map, [right, down]) {
  const [fromX, fromY] = map.active ? placeOf(map, map.active) : [map.size.width / 2, map.size.height / 2];
  /** @type {MapPoint | null} */
  let best = null;
  let bestDistance = Infinity;
  for (const point of map.drawn) {
    if (point === map.active) continue;
    const [x, y] = placeOf(map, point);
    if (x < 0 || y < 0 || x > map.size.width || y > map.size.height) continue;
    const ahead = (x - fromX) * right + (y - fromY) * down;
    const aside = Math.abs((x - fromX) * down) + Math.abs((y - fromY) * right);
    if (map.active && (ahead <= 0 || aside > ahead * 1.2)) continue;
    const distance = Math.hypot(x - fromX, y - fromY);
    if (distance < bestDistance) [best, bestDistance] = [point, distance];
  }
  return best;
}

/** @param {PointMap} map */
function startMapButtons(map) {
  /** @type {Record<string, (button: HTMLElement) => void>} */
  const actions = {
    in: () => zoomBy(map, 1.6),
    out: () => zoomBy(map, 1 / 1.6),
    fit: () => zoomBy(map, 0),
    pictures: (button) => {
      map.pictures = !map.pictures;
      button.setAttribute("aria-pressed", String(map.pictures));
      activate(map, null);
      redraw(map);
    },
  };
  for (const button of all(document, "[data-map]")) {
    button.addEventListener("click", () => actions[button.dataset.map](button));
  }
}

/** @param {PointMap} map */
function startLegend(map) {
  const legend = one(document, ".legend");
  const showAll = one(legend, "[data-legend=all]", HTMLButtonElement);
  const items = all(legend, ".legend-item");
  const update = () => {
    for (const item of items) item.setAttribute("aria-pressed", String(map.only.has(Number(item.dataset.index))));
    legend.classList.toggle("filtered", map.only.size > 0);
    showAll.disabled = map.only.size === 0;
    redraw(map);
  };
  /** @param {number | null} cluster */
  const peek = (cluster) => {
    map.peek = cluster;
    redraw(map);
  };
  for (const item of items) {
    const cluster = Number(item.dataset.index);
    item.addEventListener("click", () => {
      if (!map.only.delete(cluster)) map.only.add(cluster);
      const names = [...map.only].map((index) => clusters[index].name);
      announce(names.length === 0 ? "The map shows all clusters" : `The map shows only ${names.join(", ")}`);
      update();
    });
    item.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") peek(cluster); });
    item.addEventListener("pointerleave", () => peek(null));
  }
  showAll.addEventListener("click", () => {
    map.only.clear();
    announce("The map shows all clusters");
    update();
  });
}
