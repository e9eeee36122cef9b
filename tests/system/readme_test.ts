import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { parse } from "../../src/cli/parse.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { mustRun, run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { recipes } from "../support/readme.ts";

const PYTHON = "/usr/bin/python3";

await ensurePrograms({
  "ansible-playbook": "ansible-core",
  [PYTHON]: "python3",
  "/usr/lib/python3/dist-packages/yaml": "python3-yaml",
});

interface CronJob {
  kind: string;
  spec: {
    concurrencyPolicy: string;
    jobTemplate: {
      spec: {
        template: {
          spec: {
            hostNetwork: boolean;
            containers: {
              command: string[];
              args: string[];
              volumeMounts: { name: string; mountPath: string }[];
            }[];
            volumes: { name: string; hostPath: { path: string } }[];
          };
        };
      };
    };
  };
}

async function readYaml(text: string): Promise<unknown> {
  const script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
  return JSON.parse(await mustRun(PYTHON, ["-c", script], { stdin: text }));
}

Deno.test("README: Ansible takes the play", async () => {
  await using dir = await tempDir();
  const play = (await recipes("yaml")).find((text) => text.includes("ansible.builtin"));
  await Deno.writeTextFile(dir.join("play.yml"), play ?? "");
  await Deno.writeTextFile(dir.join("hosts"), "[hypervisors]\nhv1\n");
  const args = ["--syntax-check", "-i", dir.join("hosts"), dir.join("play.yml")];
  const env = { HOME: dir.path, LC_ALL: "C.UTF-8" };
  const { code, stdout, stderr } = await run("ansible-playbook", args, { env });
  assertEquals(code, 0, stdout + stderr);
  assertEquals(stderr, "");
});

Deno.test("README: the play writes what the unit reads", async () => {
  const play = (await recipes("yaml")).find((text) => text.includes("ansible.builtin")) ?? "";
  for (const name of ["QMPBACKUP_SOCKET", "QMPBACKUP_TARGET", "QMPBACKUP_OPTIONS"]) {
    assertStringIncludes(play, ` ${name}=`);
  }
  const words = /QMPBACKUP_OPTIONS=(.*)/.exec(play)?.[1]?.replace(/\{\{ item \}\}/g, "vm1") ?? "";
  const start = ["backup", "--level", "auto", "--socket", "s", "--target", "t"];
  assertEquals(parse([...start, ...words.split(" ")]).command, "backup");
});

Deno.test("README: the CronJob runs a command line of ours where QEMU's paths are its own", async () => {
  const text = (await recipes("yaml")).find((text) => text.includes("kind: CronJob")) ?? "";
  const { kind, spec } = await readYaml(text) as CronJob;
  assertEquals([kind, spec.concurrencyPolicy], ["CronJob", "Forbid"]);
  const { hostNetwork, containers, volumes } = spec.jobTemplate.spec.template.spec;
  assertEquals(hostNetwork, true);
  const [container] = containers;
  assert(container);
  const [program, ...words] = [...container.command, ...container.args];
  assertEquals(program, "qmpbackup");
  const { command, values } = parse(words);
  assertEquals(command, "backup");
  const paths = new Map(volumes.map(({ name, hostPath }) => [name, hostPath.path]));
  for (const { name, mountPath } of container.volumeMounts) {
    assertEquals(paths.get(name), mountPath);
  }
  for (const path of [values.socket, values.target]) {
    assert(container.volumeMounts.some(({ mountPath }) => path?.startsWith(`${mountPath}/`)), path);
  }
});

Deno.test("README: its shell scripts can be read by sh", async () => {
  const scripts = await recipes("sh");
  assert(scripts.length >= 3);
  for (const script of scripts) {
    const { code, stderr } = await run("sh", ["-n"], { stdin: script });
    assertEquals([code, stderr], [0, ""], script);
  }
});
