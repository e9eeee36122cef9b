/**
 * The results of `restore verify`, as text for people and as JSON for programs. Pure.
 *
 * @module
 */

import type { Damage, NeededFiles } from "../../verify/damage.ts";
import { allReadSince, presentResults, type VerifyResult } from "../../verify/result.ts";
import { subsetText } from "../../verify/subset.ts";
import type { Verified } from "../../verify/verify.ts";
import { basename } from "@std/path";
import { localTime } from "../../time.ts";
import { counted, printable, size } from "./text.ts";

/** More points than these are counted, not named. */
const MAX_NAMED = 20;

/** What was found in one target. */
export function verifiedText(verified: Verified): string {
  const { target, result, spoiled, intact } = verified;
  const { damages, images, points, readBytes, recorded, subset, folder } = result;
  const share = subset ? ` (${subsetText(subset)} of the contents)` : "";
  const what = `${counted(points, "restore point")}, ${counted(images, "image")}, ${
    size(readBytes)
  } read${share}`;
  const place = folder === null || folder === "." ? target : `${target}/${folder}`;
  const head = damages.length === 0 ? "ok" : counted(damages.length, "damage");
  return [
    `${printable(place)}: ${head}. ${what}\n`,
    ...(recorded > 0
      ? [
        `The digests of ${
          counted(recorded, "image")
        } are recorded from now on: what they hold now is what ` +
        "later verifications compare with\n",
      ]
      : []),
    ...damages.map((damage) => `Damage: ${printable(damageText(damage))}\n`),
    ...(damages.length > 0
      ? [pointsText("Spoiled", spoiled), pointsText("Not spoiled", intact)]
      : []),
    ...(spoiled.length > 0 ? [adviceText(intact)] : []),
  ].join("");
}

function damageText({ file, range, reason }: Damage): string {
  // Records as a whole: the reason names the file.
  if (file === ".") return reason;
  if (!range) return `"${file}" ${reason}`;
  const { offset, length } = range;
  return `"${file}", bytes ${offset} to ${offset + length - 1} ${reason}`;
}

function pointsText(title: string, points: NeededFiles[]): string {
  if (points.length === 0) return `${title}: none\n`;
  const names = points.slice(-MAX_NAMED).map(({ point, timeMs }) =>
    `  ${printable(point)}, of ${localTime(new Date(timeMs))}\n`
  );
  const left = points.length - names.length;
  return [`${title}:\n`, ...(left > 0 ? [`  ${left} older ones\n`] : []), ...names].join("");
}

function adviceText(intact: NeededFiles[]): string {
  const keep = intact.length > 0
    ? " The points that are not spoiled can be restored as before."
    : "";
  return "What to do: put the damaged files back from a copy of the target. If there is none, take a full " +
    `backup now (--level full), and check the storage.${keep}\n`;
}

/** One damage as `--json` tells it. */
export function damageJson({ target, spoiled, intact }: Verified, damage: Damage) {
  const needs = ({ point, files }: NeededFiles) =>
    damage.spoils && (point === damage.file || files.includes(damage.file));
  return {
    target,
    ...damage,
    spoiled: spoiled.filter(needs).map(({ point }) => point),
    intact: [...spoiled.filter((point) => !needs(point)), ...intact].map(({ point }) => point),
  };
}

/** The results of one target, in any order. */
export interface Verifications {
  target: string;
  results: readonly VerifyResult[];
}

/** What `info` says of the verifications of a VM's targets. */
export function verificationsText(all: readonly Verifications[]): string {
  return all.flatMap(({ target, results }) => {
    const month = all.length > 1 ? `${basename(target)}: ` : "";
    const since = allReadSince(results);
    const present = presentResults(results);
    return [
      ...present.map((result) => printable(`${month}${resultText(result)}`)),
      ...(since !== null && present[0]?.subset
        ? [printable(`${month}All contents were read since ${localTime(new Date(since))}`)]
        : []),
    ];
  }).map((line) => `${line}\n`).join("");
}

function resultText({ finished, folder, subset, damages, spoiled }: VerifyResult): string {
  const disk = folder === null ? "" : `, "${folder}" alone`;
  const share = subset ? `, ${subsetText(subset)} of the contents` : "";
  const found = damages.length === 0
    ? "no damage"
    : `${counted(damages.length, "damage")}, ${counted(spoiled.length, "restore point")} spoiled ` +
      '("restore verify" names them)';
  return `Verified ${localTime(new Date(finished))}${disk}${share}: ${found}`;
}

/** The same for `--json`. */
export function verificationsJson(all: readonly Verifications[]) {
  const since = all.map(({ results }) => allReadSince(results));
  return {
    verified: all.flatMap(({ target, results }) =>
      presentResults(results).map(({ format: _f, version: _v, ...result }) => ({
        target,
        ...result,
      }))
    ),
    // Of several, since when the one has been read that was read first.
    allReadSince: since.includes(null) ? null : since.toSorted()[0] ?? null,
  };
}
