// One picture at a time, with what is known of it. Arrow keys go on to the next of the list it was opened from.
const viewer = one(document, "#viewer", HTMLDialogElement);
/** @type {number[]} */
let viewerList = [];
let viewerPosition = 0;

/** @param {number[]} list @param {number} position */
function openViewer(list, position) {
  viewerList = list;
  if (!viewer.open) viewer.showModal();
  showInViewer(position);
}

/** @param {number} position */
function showInViewer(position) {
  viewerPosition = (position + viewerList.length) % viewerList.length;
  const image = images[viewerList[viewerPosition]];
  const picture = one(viewer, ".viewer-picture");
  const stage = one(viewer, ".viewer-stage");
  stage.hidden = !image.tile;
  if (image.tile) {
    paintWhole(picture, image.tile, Math.min(stage.clientWidth, stage.clientHeight) - 40, 3);
    picture.setAttribute("aria-label", image.id);
  }
  one(viewer, "h2").textContent = image.id;
  one(viewer, ".facts").replaceChildren(...imageFacts(image));
  const address = browserAddress(image.uri);
  one(viewer, ".viewer-links").replaceChildren(
    ...(address ? [element("a", { href: address, target: "_blank", rel: "noreferrer noopener" }, "Open the original")] : []),
  );
  one(viewer, ".viewer-place").textContent = `${viewerPosition + 1} of ${viewerList.length}`;
}

/** @param {(typeof images)[number]} image */
function imageFacts(image) {
  /** @type {HTMLElement[]} */
  const facts = [];
  /** @type {(name: string, content: Node | string) => void} */
  const add = (name, content) => facts.push(element("div", {}, element("dt", {}, name), element("dd", {}, content)));
  if (image.cluster !== null) add(`cluster ${clusters[image.cluster].id}`, clusterLink(image.cluster));
  if (image.sureness !== null) add("how sure", sureText(image.sureness));
  if (image.runnerUp !== null) add("came second", clusterLink(image.runnerUp));
  if (image.outlierScore !== null) add("from the middle", `${image.outlierScore.toFixed(1)} times the usual distance`);
  if (image.label !== null) add("label", image.label);
  if (image.uri && image.uri !== image.id) add("where", element("span", { class: "id" }, image.uri));
  return facts;
}

/**
 * A place among all images of the run: what training calls its confidence is no chance of being right.
 * @param {number} sureness
 */
function sureText(sureness) {
  if (sureness < 0.1) return "among the least sure tenth";
  if (sureness >= 0.9) return "among the surest tenth";
  return `surer than ${Math.floor(10 * sureness)} in 10`;
}

/** @param {number} index */
function clusterLink(index) {
  const cluster = clusters[index];
  const dot = element("span", { class: "dot", "aria-hidden": "true" });
  return element("a", { class: `cluster-link c${cluster.color}`, href: `#cluster-${cluster.id}` }, dot, cluster.name);
}

/**
 * The address a browser could open an image by, or null: scripts and storage schemes get no link.
 * @param {string} uri
 */
function browserAddress(uri) {
  if (uri.startsWith("/")) return `file://${uri.split("/").map(encodeURIComponent).join("/")}`;
  try {
    return ["file:", "http:", "https:"].includes(new URL(uri).protocol) ? uri : null;
  } catch {
    return null;
  }
}

function startViewer() {
  viewer.addEventListener("click", (event) => {
    const step = around(event, "[data-step]");
    if (step) showInViewer(viewerPosition + Number(step.dataset.step));
    else if (around(event, "[data-close]") || event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      event.preventDefault();
      showInViewer(viewerPosition + step);
    }
  });
}
