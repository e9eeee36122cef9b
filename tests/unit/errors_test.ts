import { assert, assertEquals } from "@std/assert";
import {
  brief,
  EXIT_CODES,
  exitCodeOf,
  explainGone,
  Failure,
  LockedError,
  messageOf,
  STOP_SIGNALS,
  StoppedError,
  type StopSignal,
  UsageError,
} from "../../src/errors.ts";

const CODES: [unknown, number][] = [
  [new Failure("x"), 1],
  [new UsageError("x"), 2],
  [new LockedError("x"), 11],
  [new StoppedError("SIGHUP"), 129],
  [new StoppedError("SIGINT"), 130],
  [new StoppedError("SIGTERM"), 143],
  [new TypeError("x"), 1],
  ["text", 1],
  [undefined, 1],
];
for (const [error, code] of CODES) {
  Deno.test(`exitCodeOf() gives ${code} for ${error}`, () => {
    assertEquals(exitCodeOf(error), code);
  });
}

/** An error of the system, as the runtime throws it. */
const systemError = (code: string) => Object.assign(new Error(`${code}: stat '/t/a'`), { code });
for (const code of ["ENOENT", "ENOTCONN", "ESTALE", "ENODEV", "ENXIO"]) {
  Deno.test(`explainGone() says what to do about ${code}`, () => {
    const explained = explainGone(systemError(code));
    assert(explained instanceof Failure);
    assertEquals(
      explained.message,
      `${code}: stat '/t/a'. Check that its file system is still mounted, and run again`,
    );
  });
}
for (const error of [systemError("EACCES"), new Failure("x"), new TypeError("x"), "text"]) {
  Deno.test(`explainGone() leaves ${error} as it is`, () => {
    assertEquals(explainGone(error), error);
  });
}

Deno.test("EXIT_CODES has every code that an error can give", () => {
  const known = Object.keys(EXIT_CODES).map(Number);
  assertEquals(CODES.map(([, code]) => code).filter((code) => !known.includes(code)), []);
});

Deno.test("StoppedError says which signal it was", () => {
  for (const signal of Object.keys(STOP_SIGNALS) as StopSignal[]) {
    assertEquals(new StoppedError(signal).message, `Stopped by ${signal}`);
  }
});

Deno.test("Failure and its kinds bear their names", () => {
  const errors = [new Failure(""), new UsageError(""), new LockedError("")];
  assertEquals(errors.map(({ name }) => name), ["Failure", "UsageError", "LockedError"]);
});

Deno.test("messageOf() gives an error's sentence", () => {
  assertEquals(messageOf(new Failure("The disk is full")), "The disk is full");
});

Deno.test("messageOf() gives what is thrown without being an error", () => {
  assertEquals(messageOf("oops"), "oops");
});

Deno.test("messageOf() gives the first error before those of the cleanup", () => {
  const first = new Failure("The job failed");
  const inner = new SuppressedError(new Failure("no node"), first);
  const outer = new SuppressedError(new Failure("no lock"), inner);
  assertEquals(
    messageOf(outer),
    "The job failed; and while cleaning up: no node; and while cleaning up: no lock",
  );
});

Deno.test("exitCodeOf() is that of the first error, whatever failed in the cleanup", () => {
  const stopped = new StoppedError("SIGTERM");
  const inner = new SuppressedError(new Failure("no node"), stopped);
  assertEquals(exitCodeOf(new SuppressedError(new Failure("no lock"), inner)), 143);
});

/** What the runtime says, and what the user is to read. */
const REFUSALS: [runtime: string, sentence: string][] = [
  [
    'Requires read access to "/backup", run again with the --allow-read flag',
    'Deno does not allow read access to "/backup": add --allow-read=/backup',
  ],
  [
    'Requires net access to "unix:/run/vm1.qmp", run again with the --allow-net flag',
    'Deno does not allow net access to "unix:/run/vm1.qmp": add --allow-net=unix:/run/vm1.qmp',
  ],
  [
    "Requires write access to <TMP>, run again with the --allow-write flag",
    'Deno does not allow write access to "<TMP>": add --allow-write=$TMPDIR',
  ],
  [
    "Requires write access, run again with the --allow-write flag",
    "Deno does not allow write access to everything: add --allow-write",
  ],
  [
    'Requires run access to "x", specify the required permissions during compilation using ' +
    "`deno compile --allow-run`",
    'Deno does not allow run access to "x": add --allow-run=x',
  ],
  [
    'Requires all access to "/dev/vg/vm1", run again with the --allow-all flag',
    'Deno does not allow access to "/dev/vg/vm1" or anything else in /dev, /proc and /sys: ' +
    "name another path",
  ],
  ["Not today", "Deno does not allow it: Not today"],
];
for (const [runtime, sentence] of REFUSALS) {
  Deno.test(`messageOf() names the flag for "${runtime}"`, () => {
    assertEquals(messageOf(new Deno.errors.NotCapable(runtime)), sentence);
  });
}

Deno.test("messageOf() names the flag for what Deno itself refuses here", async () => {
  // The unit tests run with no rights at all.
  const error = await Deno.readFile("/etc/hostname").catch((error) => error);
  assertEquals(
    messageOf(error),
    'Deno does not allow read access to "/etc/hostname": add --allow-read=/etc/hostname',
  );
});

Deno.test("brief() leaves a text that is short enough as it is", () => {
  assertEquals(brief("", 20), "");
  assertEquals(brief("x".repeat(20), 20), "x".repeat(20));
});

Deno.test("brief() keeps start and end, and is never longer than it may be", () => {
  assertEquals(
    brief(`Can't: ${"x".repeat(1 << 20)} no room`, 36),
    "Can't: xxxxxxxxx … xxxxxxxx no room",
  );
  for (const max of [20, 21, 22, 300]) {
    const cut = brief("x".repeat(1000), max);
    assert(cut.length <= max && cut.length >= max - 1);
    // A text that was cut is not cut again.
    assertEquals(brief(cut, max), cut);
  }
});

Deno.test("brief() cuts no letter in half", () => {
  for (const text of ["𝄞".repeat(100), `x${"𝄞".repeat(100)}`, `${"𝄞".repeat(100)}x`]) {
    for (const max of [20, 21, 22, 23]) assert(brief(text, max).isWellFormed());
  }
});
