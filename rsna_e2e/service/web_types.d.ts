// What the service answers, for the modules of web/, which import these types in their comments. It is not served.

export interface Session {
  name: string;
  role: "upload" | "read" | "admin";
}

export interface Identity {
  patient_id: string;
  accession: string;
  /** YYYYMMDD */
  study_date: string;
}

export type State = "arriving" | "queued" | "running" | "done" | "refused" | "failed" | "dead" | "cancelled";

/** A study in the list. */
export interface Item {
  study: string;
  identity: Identity | null;
  state: State;
  /** ISO 8601, UTC */
  received: string;
  n_files: number;
  n_slices: number | null;
  /** highest probability by label */
  scores: Record<string, number>;
  /** labels that reach their thresholds */
  above: string[];
  /** the label that orders the list */
  headline: string | null;
  sentence: string | null;
  /** files or a model came since the result */
  superseded: boolean;
  /** code, such as out_of_memory */
  reason: string | null;
}

export interface Page {
  items: Item[];
  /** cursor of the next page */
  next: number | null;
  /** rises with each change of any study */
  version: number;
}

export interface ModelName {
  name: string;
  version: string;
  identity: string;
}

/** A result of a study: of the files that were there, by a model. */
export interface Generation {
  content: string;
  model: ModelName;
  superseded: boolean;
  finished: string;
  /** of key slices, with maps and the report: made after the result */
  pictures: "wanted" | "running" | "done" | "failed";
}

export interface Study extends Item {
  /** number of files by reason */
  refused: Record<string, number>;
  generations: Generation[];
  attempts: number;
}

export interface KeySlice {
  series: string;
  /** of the slice, from 0 on */
  place: number;
}

export interface LabelResult {
  name: string;
  level: "slices" | "series";
  probability: number;
  threshold: number;
  /** false: 0.5 for want of another */
  is_learned: boolean;
  above: boolean;
  /** the highest first */
  key_slices: KeySlice[];
}

export interface SeriesResult {
  key: string;
  n_slices: number;
  place_mm: (number | null)[];
  /** slices x labels of slices */
  probability: number[][];
  /** all that were found, below the threshold too */
  boxes?: Box[];
}

export interface Result {
  study: string;
  task: string;
  model: ModelName;
  sentence: string;
  labels: LabelResult[];
  series: SeriesResult[];
}

/** In pixels of the slice; x, y: of the corner with the lowest column and row. */
export interface Box {
  label: string;
  slice: number;
  x: number;
  y: number;
  width: number;
  height: number;
  score: number;
}

/** In values of the slice. */
export interface Window {
  name: string;
  center: number;
  width: number;
}

export interface Series {
  key: string;
  n_slices: number;
  rows: number;
  columns: number;
  values: "hu" | "grey";
  /** PixelSpacing: between rows, between columns */
  spacing_mm: [number, number] | null;
  /** along the normal of the slices */
  place_mm: (number | null)[] | null;
  /** unit vectors of ImageOrientationPatient: in which columns rise, in which rows rise */
  row_direction: number[] | null;
  column_direction: number[] | null;
  windows: Window[];
  /** what is unusual about it, in words */
  flags: string[];
  /** sizes of maps, by label; empty until they are made */
  heatmaps: Record<string, { height: number; width: number }>;
}

export interface Model extends ModelName {
  labels: string[];
  headline: string;
}

export interface HeatMap {
  /** height x width; 255 is the brightest of the series */
  values: Uint8Array;
  /** [a, b, c, d, e, f]: cell (x, y) is at column a x + b y + c, row d x + e y + f, at centres from 0 on */
  affine: number[];
}

/** What the service makes of files that were sent. */
export interface Accepted {
  studies: { study: string; state: State }[];
  refused: Record<string, number>;
}
