import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { formatAddress, parseAddress, parseAgentAddress } from "../../../src/wire/address.ts";

Deno.test("parseAddress() takes a path", () => {
  assertEquals(parseAddress("/run/vm1.qmp"), { transport: "unix", path: "/run/vm1.qmp" });
});

Deno.test("parseAddress() takes a path with a colon", () => {
  assertEquals(parseAddress("/run/a:1"), { transport: "unix", path: "/run/a:1" });
});

Deno.test("parseAddress() takes tcp:HOST:PORT", () => {
  assertEquals(parseAddress("tcp:vmhost.example:4444"), {
    transport: "tcp",
    hostname: "vmhost.example",
    port: 4444,
  });
});

Deno.test("parseAddress() takes an IPv6 host in brackets", () => {
  assertEquals(parseAddress("tcp:[fe80::1]:65535"), {
    transport: "tcp",
    hostname: "fe80::1",
    port: 65535,
  });
});

const BAD = [
  ...["tcp:", "tcp:host", "tcp:host:", "tcp::4444", "tcp:host:0", "tcp:host:65536", "tcp:host:-1"],
  ...[
    "tcp:host:qmp",
    "tcp:::1:4444",
    "tcp:[]:4444",
    "tcp:[[]:4444",
    "tcp:host:4444 ",
    "tcp:host:44444444",
  ],
];
for (const text of BAD) {
  Deno.test(`parseAddress() refuses "${text}"`, () => {
    assertThrows(() => parseAddress(text), UsageError, "write tcp:HOST:PORT");
  });
}

Deno.test("parseAddress() refuses an empty name", () => {
  assertThrows(() => parseAddress(""), UsageError, "empty");
});

for (const text of ["/run/vm1.qmp", "tcp:localhost:4444", "tcp:[::1]:4444"]) {
  Deno.test(`formatAddress() writes "${text}" as the user did`, () => {
    assertEquals(formatAddress(parseAddress(text)), text);
  });
}

Deno.test("parseAgentAddress() takes vsock:CID:PORT, and all that parseAddress() takes", () => {
  const vsock = parseAgentAddress("vsock:3:1234");
  assertEquals(vsock, { transport: "vsock", cid: 3, port: 1234 });
  assertEquals(formatAddress(vsock), "vsock:3:1234");
  for (const text of ["/run/agent", "tcp:h:1"]) {
    assertEquals(parseAgentAddress(text), parseAddress(text));
  }
});

for (
  const text of ["vsock:", "vsock:3", "vsock:3:", "vsock::1", "vsock:a:1", "vsock:4294967295:1"]
) {
  Deno.test(`parseAgentAddress() refuses "${text}"`, () => {
    assertThrows(() => parseAgentAddress(text), UsageError, "write vsock:CID:PORT");
  });
}
