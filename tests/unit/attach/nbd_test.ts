import { assertEquals, assertThrows } from "@std/assert";
import { nbdUri, refuseLongSockets, serverArgs } from "../../../src/attach/nbd.ts";
import { Failure } from "../../../src/errors.ts";

Deno.test("`serverArgs()` opens read-only, serves read-only, and doubles commas where it must", () => {
  const args = serverArgs([{ disk: "disk0", path: "/b/a,b", format: "raw" }], {
    nbd: "/r/a,n",
    qmp: "/r/a,q",
  });
  const values = new Map(args.map((arg, i) => [arg, args[i + 1] ?? ""]));
  assertEquals(JSON.parse(values.get("--blockdev") ?? ""), {
    driver: "raw",
    "node-name": "disk0",
    "read-only": true,
    file: { driver: "file", filename: "/b/a,b", "read-only": true },
  });
  assertEquals(JSON.parse(values.get("--export") ?? "").writable, false);
  assertEquals(JSON.parse(values.get("--nbd-server") ?? "").addr.path, "/r/a,n");
  assertEquals(values.get("--chardev"), "socket,id=qmp,path=/r/a,,q,server=on,wait=off");
});

Deno.test("`nbdUri()` escapes what a URI gives a meaning to", () => {
  assertEquals(
    nbdUri("/r/a b&c#d?e", "disk 0/ü"),
    "nbd+unix:///disk%200%2F%C3%BC?socket=/r/a%20b%26c%23d%3Fe",
  );
});

Deno.test("`refuseLongSockets()` refuses what the kernel would", () => {
  const path = `/${"s".repeat(106)}`;
  refuseLongSockets({ nbd: path, qmp: path });
  const long = { nbd: path, qmp: `${path}s` };
  assertThrows(() => refuseLongSockets(long), Failure, "shorter --target-dir");
});
