/**
 * What can go wrong, as classes, and what each means for the exit code.
 *
 * A message says in one sentence what happened and what to do. The exit codes are a promise to
 * scripts and monitors: they are listed in every `--help` and don't change.
 *
 * @module
 */

import { withoutSecrets } from "./secrets.ts";

/** The exit codes and what they mean, in the words the help prints. */
export const EXIT_CODES = {
  0: "done",
  1: "failed, or some disks failed; a backup that was reported as done stays good",
  2: "wrong usage: nothing was touched",
  3: "done, but with warnings (under --strict; 0 without)",
  11: "another run holds the target, the VM or its QMP socket",
  129: "stopped by SIGHUP; what could not be undone was named",
  130: "stopped by SIGINT; the same",
  143: "stopped by SIGTERM; the same",
} as const;

/** The exit code of what is done, but with warnings, under `--strict`. */
export const WARNED = 3;

/** Any failure with a sentence for the user. Whatever else is thrown is a bug of ours. */
export class Failure extends Error {
  override name = "Failure";
  readonly exitCode: number = 1;
}

/** The command line, a name in it or the directory it points to is wrong; nothing was touched. */
export class UsageError extends Failure {
  override name = "UsageError";
  override readonly exitCode = 2;
}

/** Somebody else is at work on the target or on the VM. */
export class LockedError extends Failure {
  override name = "LockedError";
  override readonly exitCode = 11;
}

/** The signals that stop a run, and the exit code that a shell gives each of them. */
export const STOP_SIGNALS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
export type StopSignal = keyof typeof STOP_SIGNALS;

/** The user or the service manager asked us to stop; used as the reason of the `AbortSignal`. */
export class StoppedError extends Failure {
  override name = "StoppedError";
  override readonly exitCode: number;

  constructor(readonly signal: StopSignal) {
    super(`Stopped by ${signal}`);
    this.exitCode = STOP_SIGNALS[signal];
  }
}

/** The exit code for whatever was thrown; a cleanup that failed as well does not change it. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof SuppressedError) return exitCodeOf(error.suppressed);
  return error instanceof Failure ? error.exitCode : 1;
}

/** What the system says of a file that was there before, when its storage went away (errno(3)). */
const GONE = ["ENOENT", "ENOTCONN", "ESTALE", "ENODEV", "ENXIO"];

/**
 * Adds what to do to the system's words for a file that was there before: it was unmounted, or its server or
 * its disk is gone. Any other error stays as it is.
 */
export function explainGone(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof Failure || !("code" in error)) return error;
  if (!GONE.includes(String(error.code))) return error;
  return new Failure(
    `${error.message}. Check that its file system is still mounted, and run again`,
    { cause: error },
  );
}

/** What is shown of a text that somebody else wrote. */
const MAX_LETTERS = 500;

/**
 * A text from outside as part of a sentence: of a long one the start and the end, which often tells why.
 * It is never longer than `maxLength` characters.
 */
export function brief(text: string, maxLength = MAX_LETTERS): string {
  if (text.length <= maxLength) return text;
  const half = Math.floor((maxLength - GAP.length) / 2);
  // No half of a letter.
  const head = text.slice(0, half).replace(/[\ud800-\udbff]$/, "");
  const tail = text.slice(-half).replace(/^[\udc00-\udfff]/, "");
  return head + GAP + tail;
}

const GAP = " … ";

/** A sentence of ours may hold some texts from outside. */
const MAX_SENTENCE = 8_000;

/** The sentence for whatever was thrown; what hides behind a cleanup's error is not lost. */
export function messageOf(error: unknown): string {
  return brief(withoutSecrets(wholeMessageOf(error)), MAX_SENTENCE);
}

function wholeMessageOf(error: unknown): string {
  if (error instanceof SuppressedError) {
    return `${messageOf(error.suppressed)}; and while cleaning up: ${messageOf(error.error)}`;
  }
  if (error instanceof Deno.errors.NotCapable) return refusalText(error.message);
  return error instanceof Error ? error.message : String(error);
}

/** What the runtime says where a right is missing: its kind, and what it is asked for. */
const REFUSAL = /^Requires (?<kind>[a-z]+) access(?: to (?<quote>"?)(?<what>.+)\k<quote>)?, /;

/** Names the flag that is missing, as it has to be written. */
function refusalText(message: string): string {
  const { kind, what } = REFUSAL.exec(message)?.groups ?? {};
  if (kind === undefined) return `Deno does not allow it: ${message}`;
  if (kind === "all") {
    // No list of paths opens these: the binary, too, has no more than that.
    return `Deno does not allow access to "${what}" or anything else in /dev, /proc and /sys: ` +
      "name another path";
  }
  const flag = `--allow-${kind}`;
  if (what === undefined) return `Deno does not allow ${kind} access to everything: add ${flag}`;
  // Of the folder for temporary files Deno does not tell the name.
  const value = what === "<TMP>" ? "$TMPDIR" : what;
  return `Deno does not allow ${kind} access to "${what}": add ${flag}=${value}`;
}
