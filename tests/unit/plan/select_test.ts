import { assertEquals, assertThrows } from "@std/assert";
import { selectDisks } from "../../../src/plan/select.ts";
import { UsageError } from "../../../src/errors.ts";
import { aDisk, aRequest } from "../_fixtures.ts";

const LEFT_OUT = [{ device: "cd0", reason: "the drive is empty" }];
const disk = aDisk("disk0");
const other = aDisk("disk1");
const raw = aDisk("raw0", { format: "raw", holdsBitmaps: false });
const flash = aDisk("pflash1", { format: "raw", id: "/machine/system.flash1" });

function select(disks = [disk, other], change: Parameters<typeof aRequest>[0] = {}) {
  const { selected, leftOut } = selectDisks(disks, LEFT_OUT, aRequest(change));
  return { selected: selected.map(({ name }) => name), leftOut };
}

Deno.test("selectDisks() takes all disks where none is named", () => {
  assertEquals(select(), { selected: ["disk0", "disk1"], leftOut: [] });
});

Deno.test("selectDisks() takes only what --include names", () => {
  assertEquals(select([disk, other], { include: ["disk1"] }), {
    selected: ["disk1"],
    leftOut: [{ device: "disk0", reason: "not named by --include" }],
  });
});

Deno.test("selectDisks() leaves out what --exclude names", () => {
  assertEquals(select([disk, other], { exclude: ["disk1"] }), {
    selected: ["disk0"],
    leftOut: [{ device: "disk1", reason: "named by --exclude" }],
  });
});

const NAMED = aDisk("drive0", { node: "#block7", rootNode: "thr0", device: "drv0" });
for (const name of ["drive0", "#block7", "thr0", "drv0", NAMED.id]) {
  Deno.test(`selectDisks() knows a disk as "${name}"`, () => {
    assertEquals(select([disk, NAMED], { include: [name] }).selected, ["drive0"]);
  });
}

Deno.test("selectDisks() leaves out raw disks", () => {
  assertEquals(select([disk, raw]), {
    selected: ["disk0"],
    leftOut: [{
      device: "raw0",
      reason: "format raw: --include-raw or --include takes it",
      unasked: true,
    }],
  });
});

Deno.test("selectDisks() takes raw disks with --include-raw", () => {
  assertEquals(select([disk, raw], { includeRaw: true }).selected, ["disk0", "raw0"]);
});

Deno.test("selectDisks() takes a raw disk that --include names", () => {
  assertEquals(select([disk, raw], { include: ["raw0"] }).selected, ["raw0"]);
});

Deno.test("selectDisks() takes the raw flash of UEFI's variables", () => {
  assertEquals(select([disk, flash]).selected, ["disk0", "pflash1"]);
});

Deno.test("selectDisks() leaves out the flash that --exclude names", () => {
  assertEquals(select([disk, flash], { exclude: ["pflash1"] }).selected, ["disk0"]);
});

for (const list of ["include", "exclude"]) {
  Deno.test(`selectDisks() refuses an unknown name in --${list}, with the known ones`, () => {
    assertThrows(
      () => select([disk, other], { [list]: ["disk0", "disk2"] }),
      UsageError,
      'No disk is called "disk2"; there are "disk0", "disk1"',
    );
  });
}

Deno.test("selectDisks() refuses where no disk is left, with the reasons", () => {
  assertThrows(
    () => select([raw]),
    UsageError,
    'No disk is left to back up: "raw0" format raw: --include-raw or --include takes it',
  );
});

Deno.test("selectDisks() refuses a VM without disks", () => {
  assertThrows(
    () => select([]),
    UsageError,
    'No disk is left to back up: "cd0" the drive is empty',
  );
});

Deno.test("selectDisks() says that all disks are read-only, and which", () => {
  const readOnly = ["disk0", "disk1"].map((device) => ({ device, reason: "read-only" }));
  assertThrows(
    () => selectDisks([], [...readOnly, ...LEFT_OUT], aRequest()),
    UsageError,
    "All disks of the VM are read-only, and there is nothing to back up: " +
      '"disk0" read-only; "disk1" read-only; "cd0" the drive is empty',
  );
});

Deno.test("selectDisks() names each device where everything is left out", () => {
  const share = { device: "share0", reason: "a shared folder", unasked: true };
  assertThrows(
    () => selectDisks([raw], [share, { device: "disk0", reason: "read-only" }], aRequest()),
    UsageError,
    'No disk is left to back up: "raw0" format raw: --include-raw or --include takes it; ' +
      '"share0" a shared folder; "disk0" read-only',
  );
});

Deno.test("selectDisks() says why what --include names can't be backed up", () => {
  assertThrows(
    () => select(undefined, { include: ["cd0"] }),
    UsageError,
    `"cd0" can't be backed up: the drive is empty`,
  );
});

Deno.test("selectDisks() lets --exclude name a disk of an earlier backup that is gone", () => {
  const request = aRequest({ exclude: ["gone"] });
  assertEquals(selectDisks([disk], [], request, ["gone"]).selected, [disk]);
  assertThrows(() => selectDisks([disk], [], request, ["other"]), UsageError, '"gone"');
});

Deno.test("selectDisks() lets --exclude name a drive that is empty", () => {
  assertEquals(select(undefined, { exclude: ["cd0"] }).selected, ["disk0", "disk1"]);
});

Deno.test("selectDisks() refuses two devices on one node, and says how to leave it out", () => {
  const twin = aDisk("disk0", { id: "/machine/peripheral/twin/virtio-backend" });
  assertThrows(() => select([disk, twin]), UsageError, 'share the node "disk0"');
});
