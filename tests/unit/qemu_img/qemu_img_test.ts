import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  lastPercent,
  parseImageFacts,
  problemOfVersion,
  QemuImgError,
} from "../../../src/qemu_img/qemu_img.ts";

/** What qemu-img 7.2 says of an overlay. */
const OVERLAY = {
  "backing-filename-format": "qcow2",
  "virtual-size": 16777216,
  filename: "over.qcow2",
  "cluster-size": 65536,
  format: "qcow2",
  "actual-size": 200704,
  "format-specific": {
    type: "qcow2",
    data: {
      compat: "1.1",
      "compression-type": "zlib",
      "lazy-refcounts": false,
      "refcount-bits": 16,
      corrupt: false,
      "extended-l2": false,
    },
  },
  "full-backing-filename": "base.qcow2",
  "backing-filename": "base.qcow2",
  "dirty-flag": false,
};

const factsOf = (info: unknown) => parseImageFacts(JSON.stringify(info, null, 4) + "\n");

Deno.test("parseImageFacts() reads what qemu-img prints", () => {
  assertEquals(factsOf(OVERLAY), {
    format: "qcow2",
    virtualSizeBytes: 16777216,
    allocatedBytes: 200704,
    clusterSizeBytes: 65536,
    backing: "base.qcow2",
    dataFile: null,
    compressionType: "zlib",
    snapshots: [],
  });
});

Deno.test("parseImageFacts() finds no parent where there is none", () => {
  const { "backing-filename": _, "full-backing-filename": _full, ...info } = OVERLAY;
  assertEquals(factsOf(info).backing, null);
});

Deno.test("parseImageFacts() finds an external data file", () => {
  const data = { ...OVERLAY["format-specific"].data, "data-file": "ext.raw" };
  assertEquals(
    factsOf({ ...OVERLAY, "format-specific": { type: "qcow2", data } }).dataFile,
    "ext.raw",
  );
});

Deno.test("parseImageFacts() reads a raw image, which has no more to say", () => {
  assertEquals(factsOf({ format: "raw", "virtual-size": 512, filename: "r" }), {
    format: "raw",
    virtualSizeBytes: 512,
    allocatedBytes: 0,
    clusterSizeBytes: null,
    backing: null,
    dataFile: null,
    compressionType: null,
    snapshots: [],
  });
});

Deno.test("parseImageFacts() refuses a text", () => {
  assertThrows(() => parseImageFacts("image: over.qcow2"), QemuImgError, "no JSON");
});

for (const info of [null, [], {}, { ...OVERLAY, "virtual-size": "16M" }, { "virtual-size": 1 }]) {
  const text = JSON.stringify(info).slice(0, 30);
  Deno.test(`parseImageFacts() refuses JSON of another shape: ${text}`, () => {
    assertThrows(() => factsOf(info), QemuImgError, "unknown shape");
  });
}

Deno.test("problemOfVersion() takes QEMU from 5.2 on, and nothing else", () => {
  for (const version of ["5.2.0 (Debian 1:5.2+dfsg-11)", "6.0.0", "7.2.22 (Debian)", "11.1.2"]) {
    assertEquals(problemOfVersion(`qemu-img version ${version}\nCopyright (c) 2003`), null);
  }
  for (const version of ["5.1.99", "4.2.1", "2.12.0(Debian)"]) {
    assertStringIncludes(problemOfVersion(`qemu-img version ${version}\n`) ?? "", "5.2 or newer");
  }
  for (const printed of ["", "ImageMagick 7.1", "\nqemu-img version 7.2", "qemu-img version x"]) {
    assertStringIncludes(problemOfVersion(printed) ?? "", "another program");
  }
});

for (const size of ["1e999", "9007199254740993", "1.5", "-1"]) {
  Deno.test(`parseImageFacts() refuses the size ${size}`, () => {
    const text = JSON.stringify(OVERLAY).replace("16777216", size);
    assertThrows(() => parseImageFacts(text), QemuImgError, "unknown shape");
  });
}

Deno.test("lastPercent() finds the last one", () => {
  assertEquals(lastPercent("    (1.00/100%)\r    (12.50/100%)\r    (13."), 12.5);
  assertEquals(lastPercent("Image is up to date\n"), null);
});

Deno.test("lastPercent() gives no more than 100", () => {
  assertEquals(lastPercent("(123456789.00/100%)"), 100);
});
