import { assertEquals } from "@std/assert";
import { BOOT_HEAD, type BootResult, parseBootResult } from "../../../src/boot/result.ts";
import { isAgentUp, reasonOfShutdown } from "../../../src/boot/wait.ts";
import { bootMetricsText, metricsText, verifyMetricsText } from "../../../src/cli/metrics.ts";
import { lastBootText } from "../../../src/cli/output/booted.ts";

const SHUTDOWNS: [
  data: Record<string, unknown>,
  kind: "agent" | "shutdown",
  reason: string | null,
][] = [
  [{ guest: true, reason: "guest-shutdown" }, "shutdown", null],
  [{ guest: true, reason: "guest-panic" }, "shutdown", "The VM ended (guest-panic)"],
  [{ guest: false, reason: "host-signal" }, "shutdown", "The VM ended (host-signal)"],
  [
    { guest: true, reason: "guest-shutdown" },
    "agent",
    "The guest shut down before the guest agent's answer came",
  ],
  [{}, "agent", "The VM ended (QEMU does not say why)"],
];
for (const [data, kind, reason] of SHUTDOWNS) {
  Deno.test(`\`reasonOfShutdown()\` takes ${JSON.stringify(data)} for ${reason ?? "what was waited for"}`, () => {
    assertEquals(reasonOfShutdown({ data }, { kind }), reason);
  });
}

Deno.test("`isAgentUp()` sees that the guest opened the agent's port, and no other", () => {
  const event = (data: Record<string, unknown>, event = "VSERPORT_CHANGE") =>
    isAgentUp({ event, data });
  assertEquals(event({ id: "agent", open: true }), true);
  assertEquals(event({ id: "agent", open: false }), false);
  assertEquals(event({ id: "spice", open: true }), false);
  assertEquals(event({ id: "agent", open: true }, "RTC_CHANGE"), false);
});

const RESULT: BootResult = {
  ...BOOT_HEAD,
  started: "2026-11-22T23:00:00.000Z",
  runId: "20261122T230000Z-3f9a2c11",
  pointInTime: "2026-11-22T22:00:00.000Z",
  images: ["disk0/INC-1-d"],
  booted: false,
  waitedFor: "agent",
  seconds: 12.5,
  reason: "It said \x1b[2J",
  host: "host1",
  qemu: "7.2.22",
};

Deno.test("`parseBootResult()` reads what was written, and nothing else", () => {
  assertEquals(parseBootResult(JSON.stringify(RESULT)), RESULT);
  for (const text of ["{", "{}", JSON.stringify({ ...RESULT, waitedFor: "luck" })]) {
    assertEquals(parseBootResult(text), null);
  }
});

Deno.test("`lastBootText()` shows the newest, and drives no terminal", () => {
  const text = lastBootText([RESULT, { ...RESULT, booted: true }]);
  assertEquals(text.includes("did not boot: It said \\x1b[2J"), true);
  assertEquals(lastBootText([]), "");
});

Deno.test("`bootMetricsText()` keeps what a backup and a verification wrote, and they keep it", () => {
  const boot = { vm: "vm1", target: "/t", result: RESULT };
  const run = {
    target: "/t",
    started: new Date(0),
    finished: new Date(1000),
    exitCode: 0,
    record: null,
  };
  const verified = { target: "/t", vm: "vm1", finished: new Date(0), damages: 0, spoiledPoints: 0 };
  let text = metricsText(run, "");
  text = bootMetricsText(boot, text);
  text = verifyMetricsText([verified], text);
  text = metricsText(run, text);
  for (
    const name of [
      "last_run_exit_code",
      "boot_test_ok",
      "verify_ok",
      "last_boot_test_timestamp_seconds",
    ]
  ) {
    assertEquals(text.match(new RegExp(`^qmpbackup_${name}\\{`, "gm"))?.length, 1, name);
  }
});
