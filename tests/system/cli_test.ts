import { asBinary, bareRoot, binary, compileBinary } from "../support/program.ts";
import { cliCases } from "./_cli_cases.ts";

Deno.test("`main` behaves on the command line", async (t) => {
  await cliCases(asBinary, t);
});

Deno.test("the compiled binary behaves on the command line", async (t) => {
  await compileBinary();
  await cliCases(binary, t);
});

Deno.test({
  name: "the compiled binary behaves on the command line of a bare, read-only root",
  // Only root may change the root.
  ignore: Deno.uid() !== 0,
  async fn(t) {
    await compileBinary();
    // The cases' own scripts are made of these.
    const programs = ["/usr/bin/qemu-img", "/usr/bin/env", "/bin/sh", "/bin/cat", "/bin/sleep"];
    await using root = await bareRoot({ programs, shared: ["/tmp"] });
    await cliCases(root, t);
  },
});
