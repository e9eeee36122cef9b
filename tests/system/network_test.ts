import { assertEquals } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";

const CONFIG = fromFileUrl(new URL("../../deno.json", import.meta.url));
const MAIN = new URL("../../main.ts", import.meta.url);

const NETWORK: [command: string, keeps: "never" | "where unix sockets need it" | "always"][] = [
  ["--version", "never"],
  ["restore merge --dir d --targetfile f", "never"],
  ["info --show backups --dir d", "never"],
  ["backup --socket /run/vm.qmp -l full -t d", "where unix sockets need it"],
  ["info --show blockdev --socket=/run/vm.qmp", "where unix sockets need it"],
  ["backup --socket tcp:h:1 -l full -t d", "always"],
  ["backup --socket=/q --agent-socket=tcp:h:1 -l full -t d", "always"],
  ["backup --socket=/q --agent-socket vsock:3:1 -l full -t d", "always"],
];

Deno.test("`main` gives up the network unless it is asked to connect to it", async (t) => {
  const isOld = Deno.version.deno.startsWith("2.4.");
  for (const [line, keeps] of NETWORK) {
    await t.step(line, async () => {
      const code = `
        const { giveUpNetwork } = await import("${MAIN}");
        giveUpNetwork(${JSON.stringify(line.split(" "))});
        console.log(Deno.permissions.querySync({ name: "net" }).state);`;
      await using dir = await tempDir();
      await Deno.writeTextFile(dir.join("ask.ts"), code);
      const flags = ["run", "--no-prompt", "--no-check", "--allow-net", "--allow-read"] as const;
      const args = [...flags, "--config", CONFIG, dir.join("ask.ts")];
      const { stdout, stderr } = await run(Deno.execPath(), args);
      const granted = keeps === "always" || (keeps !== "never" && !isOld);
      assertEquals(stdout.trim(), granted ? "granted" : "prompt", stderr);
    });
  }
});
