/**
 * The lines of all rows, as a table. Pure.
 *
 * @module
 */

import { table } from "../../src/cli/output/text.ts";
import type { Line } from "./row.ts";

const HEAD: Line = {
  work: "WORK",
  ours: "QMPBACKUP",
  against: "AGAINST",
  theirs: "TAKES",
  ratio: "RATIO (SPREAD)",
  aim: "AIM",
};
const COLUMNS = Object.keys(HEAD) as (keyof Line)[];

/** A table with a head. */
export function tableOf(lines: readonly Line[]): string {
  return table([HEAD, ...lines].map((line) => COLUMNS.map((column) => line[column])))
    .split("\n").map((line) => line.trimEnd()).join("\n").trimEnd();
}
