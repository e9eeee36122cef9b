import { assertEquals, assertStringIncludes } from "@std/assert";
import {
  HALF_WAY_HEAD,
  type HalfWay,
  halfWayWords,
  parseHalfWay,
} from "../../../src/repo/half_way.ts";

const halfWay: HalfWay = {
  ...HALF_WAY_HEAD,
  ...{ since: "2026-11-28T03:00:00.000Z", run: "20261128T010000Z-0123abcd" },
  ...{ disks: ["disk0", "disk1"], wasRunning: true },
};

Deno.test("parseHalfWay() reads what was written, and nothing else", () => {
  assertEquals(parseHalfWay(JSON.stringify(halfWay)), halfWay);
  for (
    const wrong of [
      "",
      "{}",
      JSON.stringify({ ...halfWay, version: 2 }),
      JSON.stringify({ ...halfWay, disks: [] }),
      JSON.stringify({ ...halfWay, since: "yesterday" }),
      JSON.stringify({ ...halfWay, wasRunning: "yes" }),
    ]
  ) assertEquals(parseHalfWay(wrong), null);
});

Deno.test("halfWayWords() says what to run, and what to remove", () => {
  const words = halfWayWords("/backup/vm1", halfWay);
  assertStringIncludes(words, 'The disks "disk0", "disk1" of this VM may be half rolled back');
  assertStringIncludes(words, "--dir /backup/vm1 --until 20261128T010000Z-0123abcd");
  assertStringIncludes(words, '"/backup/vm1/_qmpbackup/rollback.json"');
});
