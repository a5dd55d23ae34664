// Slices and maps in memory: fetched in the order in which they will be wanted, the longest unused given up first.

/**
 * What was fetched, up to a number of bytes.
 * @template {ArrayBufferView | {values: ArrayBufferView}} Entry
 */
export class Memory {
  /** @param {number} capacity in bytes */
  constructor(capacity) {
    this.capacity = capacity;
    this.bytes = 0;
    /** @type {Map<string, Entry>} a Map keeps the order in which keys came; the first is the longest unused */
    this.entries = new Map();
  }

  /** @param {string} key @returns {Entry | undefined} */
  get(key) {
    const entry = this.entries.get(key);
    if (entry !== undefined) {
      this.entries.delete(key);
      this.entries.set(key, entry);
    }
    return entry;
  }

  /** @param {string} key */
  has(key) {
    return this.entries.has(key);
  }

  /** @param {string} key @param {Entry} entry */
  put(key, entry) {
    this.drop(key);
    this.entries.set(key, entry);
    this.bytes += sizeOf(entry);
    for (const oldest of this.entries.keys()) {
      if (this.bytes <= this.capacity || oldest === key) break;
      this.drop(oldest);
    }
  }

  /** @param {string} key */
  drop(key) {
    const entry = this.entries.get(key);
    if (entry === undefined) return;
    this.entries.delete(key);
    this.bytes -= sizeOf(entry);
  }
}

/** @param {ArrayBufferView | {values: ArrayBufferView}} entry */
const sizeOf = entry => (ArrayBuffer.isView(entry) ? entry : entry.values).byteLength;

/**
 * Places of slices in the order in which to fetch them: the current one, key slices and then all others, each outward
 * from the current one.
 * @param {number} current @param {number} nSlices @param {number[]} keySlices @returns {number[]}
 */
export function fetchOrder(current, nSlices, keySlices) {
  const outward = (/** @type {number[]} */ places) =>
    places.sort((a, b) => Math.abs(a - current) - Math.abs(b - current) || b - a);
  const all = Array.from({length: nSlices}, (_, place) => place);
  return [...new Set([current, ...outward([...keySlices]), ...outward(all)])];
}

/**
 * Fetches what is wanted, a few at a time.
 * @template {ArrayBufferView | {values: ArrayBufferView}} Entry
 */
export class Fetcher {
  /**
   * @param {Memory<Entry>} memory @param {(key: string, signal: AbortSignal) => Promise<Entry>} fetchOne
   * @param {{atOnce: number, signal: AbortSignal, arrived: (key: string) => void}} options
   */
  constructor(memory, fetchOne, {atOnce, signal, arrived}) {
    this.memory = memory;
    this.fetchOne = fetchOne;
    this.atOnce = atOnce;
    this.signal = signal;
    this.arrived = arrived;
    /** @type {string[]} */
    this.wanted = [];
    /** @type {Set<string>} */
    this.underWay = new Set();
    /** Why a key could not be fetched. @type {Map<string, Error>} */
    this.failed = new Map();
  }

  /** Replace what is wanted, the most urgent first. @param {string[]} keys no more than the memory holds */
  want(keys) {
    this.wanted = keys;
    for (const key of keys.toReversed()) this.memory.get(key); // so that none of them is given up for another
    this.#next();
  }

  /** Forget a failure, and try again. @param {string} key */
  retry(key) {
    this.failed.delete(key);
    this.#next();
  }

  #next() {
    for (const key of this.wanted) {
      if (this.underWay.size >= this.atOnce || this.signal.aborted) return;
      if (!this.memory.has(key) && !this.underWay.has(key) && !this.failed.has(key)) void this.#fetch(key);
    }
  }

  /** @param {string} key */
  async #fetch(key) {
    this.underWay.add(key);
    try {
      this.memory.put(key, await this.fetchOne(key, this.signal));
    } catch (error) {
      this.failed.set(key, /** @type {Error} */ (error));
    }
    this.underWay.delete(key);
    if (this.signal.aborted) return;
    this.arrived(key);
    this.#next();
  }
}
