import { assertEquals, assertThrows } from "@std/assert";
import { fileMode } from "../../../../src/cli/args/file_mode.ts";
import { UsageError } from "../../../../src/errors.ts";

const MODES: [text: string | undefined, mode: number][] = [
  [undefined, 0o600],
  ["0600", 0o600],
  ["600", 0o600],
  ["0660", 0o660],
  ["0644", 0o644],
  ["0666", 0o666],
];
for (const [text, mode] of MODES) {
  Deno.test(`fileMode() reads ${text} as ${mode.toString(8)}`, () => {
    assertEquals(fileMode(text), mode);
  });
}

const NO_MODES = ["", "0", "0o600", "0x180", "432", "0400", "0700", "0661", "2660", "u+rw", "-600"];
for (const text of NO_MODES) {
  Deno.test(`fileMode() refuses "${text}"`, () => {
    assertThrows(() => fileMode(text), UsageError, "--mode");
  });
}
