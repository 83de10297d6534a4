// What a report hands to its scripts: the JSON that ../payload.py builds, and data attributes of the templates.
// Clusters, images and questions are named by their places in its lists.

interface Payload {
  /** What one image is called, and several. */
  item: [one: string, many: string];
  sheets: [width: number, height: number][];
  images: [
    id: string,
    uri: string,
    cluster: number | null,
    sureness: number | null,
    runnerUp: number | null,
    outlierScore: number | null,
    label: string | null,
    tile: Tile | null,
  ][];
  clusters: Cluster[];
  map: MapPlaces | null;
  /** Title and time, by which the browser tells the corrections of one report from those of another. */
  made: string;
  questions: [
    kind: "merge" | "split" | "move" | "rename",
    first: number,
    second: number | null,
    shown: number[],
    otherShown: number[],
    ids: string[],
    otherIds: string[],
    name: string,
    mended: number,
    chance: number,
  ][];
}

/** In pixels of the sheet. */
type Tile = [sheet: number, x: number, y: number, width: number, height: number];

interface Cluster {
  id: number;
  name: string;
  /** All that a search finds it by. */
  words: string[];
  size: number;
  doubtful: number | null;
  color: number;
  exemplars: number[];
  border: number[];
  duplicates: number[][];
}

interface MapPlaces {
  images: number[];
  x: number[];
  y: number[];
}

/** Those that are read from elements that a selector found by them, and are there. */
interface DOMStringMap {
  action: string;
  answer: string;
  key: string;
  map: string;
  pictures: "exemplars" | "border" | "duplicates";
}
