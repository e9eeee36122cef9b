import { assert, assertEquals } from "@std/assert";
import {
  backingLink,
  diskFileName,
  fleeceName,
  imageName,
  isChainId,
  isFleeceOf,
  parseImageName,
  partialName,
  plainImageName,
  runId,
  sharedFileName,
  tagOf,
} from "../../../src/repo/layout.ts";
import { deviceName } from "../../../src/vm/disks.ts";
import { CHAIN } from "../_fixtures.ts";

Deno.test("imageName() writes the reference's names", () => {
  assertEquals(imageName("full", 1763852400, "disk.qcow2"), "FULL-1763852400-disk.qcow2");
  assertEquals(imageName("inc", 1763852400, "disk.qcow2"), "INC-1763852400-disk.qcow2");
  assertEquals(imageName("copy", 1763852400, "disk.qcow2"), "COPY-1763852400-disk.qcow2");
});

Deno.test("parseImageName() reads what imageName() writes", () => {
  for (const level of ["full", "inc", "copy"] as const) {
    const parts = { level, unixSeconds: 1763852400, diskFileName: "FULL-1-odd\nname.qcow2" };
    const name = imageName(parts.level, parts.unixSeconds, parts.diskFileName);
    assertEquals(parseImageName(name), parts);
  }
});

Deno.test("parseImageName() refuses partials", () => {
  assertEquals(parseImageName("FULL-1763852400-disk.qcow2.partial"), null);
});

const NO_IMAGES = [
  ...["disk.qcow2", "FULL-disk.qcow2", "FULL-1763852400-", "FULL--1-disk", "full-1763852400-disk"],
  ...["xFULL-1763852400-disk", "DIFF-1763852400-disk", "INC-1e9-disk", "FULL-123456789012-disk"],
  ...["FULL-1-disk.config"],
  ...["uuid", "disk.qcow2.config", ""],
];
for (const name of NO_IMAGES) {
  Deno.test(`parseImageName() refuses "${name}"`, () => {
    assertEquals(parseImageName(name), null);
  });
}

const FILE_NAMES: [string, string][] = [
  ["/vm/disk.qcow2", "disk.qcow2"],
  ["disk.qcow2", "disk.qcow2"],
  ["/vm/disk#1?.qcow2", "disk#1?.qcow2"],
  ["disk#1.qcow2", "disk#1.qcow2"],
  ["/dev/vg0/vm1-root", "vm1-root"],
  ["/vm/with space 'and quote'$(x).qcow2", "with space 'and quote'$(x).qcow2"],
  ["/vm/Ünï€.qcow2", "Ünï€.qcow2"],
  ["/vm/folder/", "folder"],
  ["nbd://host/export", "export"],
  ["nbd+unix:///export?socket=/run/nbd.sock", "export"],
  ["iscsi://host/iqn.2001-04.com.example/1", "1"],
  ["rbd:pool/image:id=admin:conf=/etc/ceph.conf", "image"],
  ["rbd:pool/image@snap", "image"],
  ['json:{"driver":"qcow2","file":{"driver":"file","filename":"/vm/a.qcow2"}}', "a.qcow2"],
  ['json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"vm1"}}', "vm1"],
  ['json:{"driver":"nbd","export":"e1","server":{"host":"h","path":"/x"}}', "e1"],
  ['json:{"driver":"raw","file":{"driver":"raw","file":{"filename":"/vm/deep"}}}', "deep"],
];
for (const [source, name] of FILE_NAMES) {
  Deno.test(`diskFileName() calls ${source} "${name}"`, () => {
    assertEquals(diskFileName(source), name);
  });
}

for (
  const source of ["", "/", "/vm/..", "..", ".", "json:{", "json:null", 'json:{"file":"node"}']
) {
  Deno.test(`diskFileName() calls "${source}" "disk"`, () => {
    assertEquals(diskFileName(source), "disk");
  });
}

Deno.test("diskFileName() takes out what a terminal, QEMU or a path would obey", () => {
  assertEquals(diskFileName("/vm/a:b\\c\nd\x1be\x7f\x9b\0"), "a_b_c_d_e___");
});

Deno.test("diskFileName() takes out half a letter, which no file system keeps", () => {
  assertEquals(diskFileName("/vm/a\ud800b"), "a_b");
});

Deno.test("diskFileName() shortens a very long name at once", () => {
  const startMs = performance.now();
  assertEquals(diskFileName("x".repeat(1 << 20)).length, 150);
  assert(performance.now() - startMs < 10_000);
});

Deno.test("plainImageName() keeps the name of a disk's file", () => {
  assertEquals(plainImageName("disk.qcow2"), "disk.qcow2");
});

for (const level of ["FULL", "INC", "COPY"]) {
  Deno.test(`plainImageName() gives no full backup the name of another, such as ${level}-…`, () => {
    assertEquals(plainImageName(`${level}-1-disk`), `_${level}-1-disk`);
  });
}

const OURS = [
  "uuid",
  "image",
  "_qmpbackup",
  "RESTORE.txt",
  "uuid.tmp",
  "FULL.new",
  "disk.replaced",
];
for (const name of OURS) {
  Deno.test(`plainImageName() does not take "${name}", which is written by us`, () => {
    assertEquals(plainImageName(name), `${name}_`);
  });
}

Deno.test("diskFileName() takes no path out of a json: name", () => {
  assertEquals(diskFileName('json:{"filename":"../../etc/passwd"}'), "passwd");
});

Deno.test("diskFileName() gives up on options without end", () => {
  const deep = '{"file":'.repeat(50) + "{}" + "}".repeat(50);
  assertEquals(diskFileName(`json:${deep}`), "disk");
});

Deno.test("diskFileName() leaves room for a level, a time and a suffix", () => {
  const name = diskFileName(`/vm/${"€𝄞".repeat(60)}.qcow2`);
  const partial = partialName(imageName("full", 999999999999, name), "20261122T230000Z-0123abcd");
  const size = new TextEncoder().encode(partial).length;
  assert(size <= 255, `${size} bytes`);
});

Deno.test("diskFileName() keeps the end of a long name, in whole letters", () => {
  const name = diskFileName(`/vm/${"𝄞".repeat(100)}-1.qcow2`);
  assertEquals(name, "𝄞".repeat(35) + "-1.qcow2");
});

Deno.test("diskFileName() gives no name that makes an image look unfinished", () => {
  const name = diskFileName("/vm/disk.qcow2.partial");
  assertEquals(parseImageName(imageName("full", 1763852400, name))?.level, "full");
});

for (const id of [CHAIN, "a", "0", "My.Chain_1-x", "a".repeat(128)]) {
  Deno.test(`isChainId() takes "${id}"`, () => assert(isChainId(id)));
}

for (const id of ["", "-a", ".", "..", "a/b", "a b", "a\n", "ä", "$(x)", "a".repeat(129)]) {
  Deno.test(`isChainId() refuses ${JSON.stringify(id)}`, () => assert(!isChainId(id)));
}

Deno.test("runId() says when the run started, in UTC", () => {
  const startedAt = new Date("2026-11-22T23:05:09.123+01:00");
  assertEquals(runId(startedAt, "f00dcafe"), "20261122T220509Z-f00dcafe");
});

Deno.test("tagOf() finds the tag that runId() was given", () => {
  assertEquals(tagOf(runId(new Date(), "f00dcafe")), "f00dcafe");
});

for (const end of ["partial", "config", "replaced", "new"]) {
  Deno.test(`diskFileName() gives no name that ends in .${end}`, () => {
    assertEquals(diskFileName(`/vm/disk.${end}`), `disk_${end}`);
  });
}

for (const name of ["uuid", "_qmpbackup", "image", "FULL-1700000000-disk", "COPY-1-x"]) {
  Deno.test(`plainImageName() gives no image the name "${name}"`, () => {
    const plain = plainImageName(name);
    assert(plain !== name && plain.includes(name) && parseImageName(plain) === null, plain);
  });
}

Deno.test("backingLink() puts a dot before what QEMU would take for a protocol", () => {
  assertEquals(backingLink("FULL-1-a:b.qcow2"), "./FULL-1-a:b.qcow2");
  assertEquals(backingLink("nbd://h/x"), "./nbd://h/x");
  for (const name of ["FULL-1-a.qcow2", "../other/a:b", "./a:b"]) {
    assertEquals(backingLink(name), name);
  }
});

Deno.test("deviceName() and sharedFileName() leave room for all that is put round them", () => {
  const device = deviceName("€".repeat(300));
  const name = imageName("copy", 99999999999, sharedFileName(device, "x".repeat(200)));
  const size = new TextEncoder().encode(`${name}.replaced`).length;
  assert(size <= 255, `${size} bytes`);
  assert(name.includes(`${device}.x`), name);
  assertEquals(sharedFileName("d", "disk.qcow2"), "d.disk.qcow2");
});

const FLEECES: [path: string, isOurs: boolean][] = [
  [`/vm/${fleeceName("f00dcafe", 0)}`, true],
  [`/vm/$(x)\n/${fleeceName("f00dcafe", 12)}`, true],
  [fleeceName("f00dcafe", 0), false],
  [`vm/${fleeceName("f00dcafe", 0)}`, false],
  [`/vm/${fleeceName("f00dcafe", 0)}/`, false],
  [`/vm/${fleeceName("f00dcafe", 0)}/..`, false],
  [`/vm\0/${fleeceName("f00dcafe", 0)}`, false],
  [`/vm/${fleeceName("00000000", 0)}`, false],
  ["/vm/qmpbackup-f00dcafe-.fleece", false],
  ["/etc/passwd", false],
  ["", false],
];
for (const [path, isOurs] of FLEECES) {
  Deno.test(`isFleeceOf() ${isOurs ? "knows" : "refuses"} ${JSON.stringify(path)}`, () => {
    assertEquals(isFleeceOf("20261122T230000Z-f00dcafe", path), isOurs);
  });
}

Deno.test("isFleeceOf() believes no tag of another shape", () => {
  assert(!isFleeceOf("run-x", "/vm/qmpbackup-x-0.fleece"));
  assert(!isFleeceOf("run-", "/vm/qmpbackup--0.fleece"));
});
