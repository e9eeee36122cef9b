/**
 * What a row of the table is, and how the sides of one are measured: in turn, in one run.
 *
 * @module
 */

import { formatRatio, formatSeconds, median, ratios, spread } from "./figures.ts";
import type { Plot } from "./plot.ts";

/** Where a row works, and how much of it is wanted. */
export interface Bench {
  /** A folder on the file system that is measured; emptied after each row. */
  dir: string;
  /** Smaller disks and fewer rounds: whether all works, not how fast. */
  quick: boolean;
  rounds: number;
  /** Gets what is to be ended after the row. */
  stack: AsyncDisposableStack;
}

/** A line of the table, as it is printed. */
export interface Line {
  work: string;
  ours: string;
  against: string;
  theirs: string;
  ratio: string;
  aim: string;
}

/** What a row adds to the page. */
export interface Measured {
  lines: Line[];
  plot?: Plot;
}

/** A row of the table: one kind of work, against one or more other ways to do it. */
export interface Row {
  /** What `--only` calls it. */
  name: string;
  measure(bench: Bench): Promise<Measured>;
}

/** One way to do a work. */
export interface Side {
  name: string;
  /** What the ratio of the first side's time to this one's is to be at most. */
  aim?: number;
  /** Makes room for the next round. Not timed. */
  prepare?(): Promise<void>;
  /** What is timed. When it returns, all is on the storage. */
  run(): Promise<void>;
  /** Not timed. Throws unless the result holds what it must. */
  check(): Promise<void>;
}

/** The times of each side, in its order of rounds. */
export type Times = number[][];

/**
 * Runs all sides in turn, round after round, and compares what each made. Every round begins with another side.
 *
 * @param sides Ours first.
 */
export async function compareSides(
  { rounds }: Pick<Bench, "rounds">,
  sides: readonly Side[],
): Promise<Times> {
  const times = sides.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < sides.length; turn++) {
      const index = (round + turn) % sides.length;
      const side = sides[index] as Side;
      await side.prepare?.();
      const start = performance.now();
      await side.run();
      times[index]?.push(performance.now() - start);
      await side.check();
    }
  }
  return times;
}

/** A line for each side but the first. */
export function linesOf(work: string, sides: readonly Side[], times: Times): Line[] {
  const [ours = [], ...others] = times;
  return others.map((theirs, index): Line => {
    const { name, aim } = sides[index + 1] as Side;
    const all = ratios(ours, theirs);
    return {
      work,
      ours: formatSeconds(median(ours)),
      against: name,
      theirs: formatSeconds(median(theirs)),
      ratio: formatRatio(median(all), spread(all)),
      aim: aim === undefined ? "" : `≤ ${aim}`,
    };
  });
}
