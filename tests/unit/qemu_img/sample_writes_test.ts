import { assertEquals } from "@std/assert";
import { parseBench } from "../../../src/qemu_img/sample_writes.ts";

Deno.test("parseBench() reads how long it took", () => {
  const sending = "Sending 64 write requests, 262144 bytes each, 16 in parallel\n";
  assertEquals(parseBench(`${sending}Run completed in 0.132 seconds.\n`), 132);
  assertEquals(parseBench(sending), null);
  assertEquals(parseBench(""), null);
});
