/**
 * What `restore test` says. Pure.
 *
 * @module
 */

import type { Booted } from "../../boot/boot.ts";
import type { BootResult } from "../../boot/result.ts";
import { localTime } from "../../time.ts";
import { printable } from "./text.ts";

const CAME = {
  text: "the text came on the serial console",
  agent: "the guest agent answered",
  shutdown: "the guest shut down",
  exit: "the guest exited with 0",
} as const;

/** The result of one boot. */
export function bootedText(result: BootResult, { serialTail, screenshot }: Booted): string {
  return [
    outcome(result) + "\n",
    ...(screenshot === null ? [] : [`Screenshot: ${printable(screenshot)}\n`]),
    ...(result.booted || serialTail.length === 0 ? [] : ["Last on the serial console:\n"]),
    ...(result.booted ? [] : serialTail.map((line) => `  ${printable(line)}\n`)),
  ].join("");
}

function outcome({ booted, pointInTime, waitedFor, seconds, reason }: BootResult): string {
  const point = `The point in time ${localTime(new Date(pointInTime))}`;
  return booted
    ? `${point} boots: ${CAME[waitedFor]} after ${seconds} s`
    : `${point} did not boot: ${printable(reason ?? "")}`;
}

/** The newest result, as `info` shows it; nothing where there is none. */
export function lastBootText([last]: readonly BootResult[]): string {
  if (!last) return "";
  return `Boot test of ${localTime(new Date(last.started))}: ${outcome(last)}\n`;
}
