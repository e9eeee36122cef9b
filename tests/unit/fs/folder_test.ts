import { assertEquals, assertStringIncludes } from "@std/assert";
import { problemOfFolder } from "../../../src/fs/folder.ts";

const US = 34, THEM = 1000;

const ROWS: [uid: number, gid: number, mode: number, fileMode: number, says: string | null][] = [
  [0, 0, 0o755, 0o600, null],
  [0, 0, 0o750, 0o600, null],
  [0, 0, 0o700, 0o600, null],
  // Root's own group, and our own.
  [0, 0, 0o775, 0o600, null],
  [0, US, 0o770, 0o600, null],
  [US, US, 0o2775, 0o600, null],
  [US, THEM, 0o755, 0o600, null],
  // A group that `--mode` names, and one that it does not.
  [0, THEM, 0o2770, 0o660, null],
  [0, THEM, 0o2770, 0o640, "the group 1000 may write to"],
  [US, THEM, 0o775, 0o600, "the group 1000 may write to"],
  [0, 0, 0o777, 0o660, "every user may write to"],
  [0, THEM, 0o777, 0o600, "the group 1000 and every user may write to"],
  [0, 0, 0o777, 0o666, null],
  // Names in a folder with the sticky bit belong to their owners, and the folder's.
  [0, 0, 0o1777, 0o600, null],
  [US, THEM, 0o1770, 0o600, null],
  [THEM, THEM, 0o1777, 0o600, "belongs to the user 1000"],
  [THEM, THEM, 0o700, 0o600, "belongs to the user 1000"],
  [THEM, US, 0o770, 0o660, "belongs to the user 1000"],
];

for (const [uid, gid, mode, fileMode, says] of ROWS) {
  const what = `${uid}:${gid} ${mode.toString(8)}, files ${fileMode.toString(8)}`;
  Deno.test(`\`problemOfFolder()\` ${says === null ? "allows" : "refuses"} ${what}`, () => {
    const problem = problemOfFolder("/t", { uid, gid, mode }, { users: [0, US], fileMode });
    if (says === null) assertEquals(problem, null);
    else assertStringIncludes(problem ?? "", says);
  });
}

Deno.test("`problemOfFolder()` gives commands that can be pasted", () => {
  const trust = { users: [0], fileMode: 0o600 };
  const path = "/a b'c";
  const owner = problemOfFolder(path, { uid: 7, gid: 7, mode: 0o700 }, trust);
  assertStringIncludes(owner ?? "", `(chown 0 '/a b'\\''c')`);
  const all = problemOfFolder(path, { uid: 0, gid: 7, mode: 0o777 }, trust);
  assertStringIncludes(all ?? "", `(chmod go-w '/a b'\\''c';`);
});
