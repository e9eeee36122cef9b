import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { parse } from "../../../src/cli/args/parse.ts";
import { UNITS, unitsText } from "../../../src/cli/systemd.ts";
import { parseSubset, slotsOf } from "../../../src/verify/subset.ts";

Deno.test("unitsText() has each file under its path", () => {
  const files = unitsText().split(/^(?=# \/etc\/)/m).map((part) => {
    const [head = "", ...lines] = part.split("\n");
    return { path: head.slice(2), text: lines.join("\n") };
  });
  assertEquals(files.map(({ path }) => path), UNITS.map(({ path }) => path));
  for (const [index, { text }] of files.entries()) {
    assertEquals(text.trim(), UNITS[index]?.text.trim());
  }
});

Deno.test("UNITS name a command line of ours", () => {
  const service = UNITS[0]?.text ?? "";
  const [program, ...words] = /^ExecStart=(.*)$/m.exec(service)?.[1]?.split(" ") ?? [];
  assertEquals(program, "/usr/local/bin/qmpbackup");
  const { command, values } = parse(words.filter((word) => word !== "$QMPBACKUP_OPTIONS"));
  assertEquals([command, values], ["backup", {
    level: "auto",
    socket: "${QMPBACKUP_SOCKET}",
    target: "${QMPBACKUP_TARGET}",
  }]);
  const environment = UNITS[2]?.text ?? "";
  for (const [, name = ""] of service.matchAll(/\$\{?(QMPBACKUP_\w+)/g)) {
    // More flags are not needed, least of all metrics that nobody collects.
    const value = name === "QMPBACKUP_OPTIONS" ? "$" : ".";
    assert(new RegExp(`^${name}=${value}`, "m").test(environment), name);
  }
});

Deno.test("UNITS check a target as the example says, another share each Sunday", () => {
  const textOf = (name: string) => UNITS.find(({ path }) => path.endsWith(name))?.text ?? "";
  const service = textOf("/qmpbackup-verify@.service");
  const options = /^QMPBACKUP_VERIFY_OPTIONS=(.*)$/m.exec(textOf(".env.example"))?.[1] ?? "";
  const [program, ...words] = (/^ExecStart=(.*)$/m.exec(service)?.[1] ?? "")
    .replace("$QMPBACKUP_VERIFY_OPTIONS", options).split(" ");
  assertEquals(program, "/usr/local/bin/qmpbackup");
  const { command, values } = parse(words);
  assertEquals(command, "restore verify");
  assertEquals(values.dir, "${QMPBACKUP_TARGET}");
  const subset = parseSubset(values.subset ?? "");
  const slots = [0, 7, 14, 21].flatMap((day) => slotsOf(subset, 20_000 + day));
  assertEquals(slots.toSorted(), [0, 1, 2, 3]);
  assertStringIncludes(textOf("/qmpbackup-verify@.timer"), "OnCalendar=Sun 04:00");
});

Deno.test("UNITS confine the check as the backup", () => {
  const confined = (text = "") => text.slice(text.indexOf("\nPrivateTmp=")).trim();
  assertStringIncludes(confined(UNITS[0]?.text), "NoNewPrivileges=yes");
  assertEquals(confined(UNITS[3]?.text), confined(UNITS[0]?.text));
});

Deno.test("UNITS let be written what the example writes, and libvirt's disks", () => {
  const service = UNITS[0]?.text ?? "";
  const writable = /^ReadWritePaths=(.*)$/m.exec(service)?.[1]?.split(" ") ?? [];
  // With the "-" a folder that is not there is no error.
  assert(writable.every((path) => path.startsWith("-/")));
  const environment = UNITS[2]?.text ?? "";
  const target = /^QMPBACKUP_TARGET=(.*)$/m.exec(environment)?.[1];
  const metrics = /--metrics-file (\S+)/.exec(environment)?.[1];
  for (const path of [target, metrics, "/var/lib/libvirt/images/disk.qcow2"]) {
    assert(writable.some((folder) => path?.startsWith(`${folder.slice(1)}/`)), path);
  }
});

Deno.test("UNITS hide no path from us that QEMU sees, and spare the guard", () => {
  const service = UNITS[0]?.text ?? "";
  const valueOf = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(service)?.[1];
  assertEquals(valueOf("PrivateTmp"), "no");
  assertEquals(valueOf("ProtectHome"), "read-only");
  assertEquals(valueOf("KillMode"), "control-group");
  const hiding = ["PrivateDevices", "InaccessiblePaths", "TemporaryFileSystem", "RootDirectory"];
  assertEquals(hiding.filter((key) => valueOf(key) !== undefined), []);
});

Deno.test("UNITS say in the example what is left out unless it is asked for", () => {
  const words = (UNITS[2]?.text ?? "").replace(/\n# /g, " ");
  assertStringIncludes(words, "Raw disks are left out, with a warning, unless --include-raw");
  assertStringIncludes(words, "--exclude NAME");
});
