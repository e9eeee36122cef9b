import { type Scene, scene } from "./scene.ts";
import { asNobody } from "./vm.ts";

/** The group of a QEMU that runs as nobody. */
export const NOGROUP = 65534;

/** A scene with a QEMU of another user, and its group's folders: the target, and "fleeces". */
export async function groupScene(): Promise<Scene> {
  await using stack = new AsyncDisposableStack();
  const s = stack.use(await scene({ vm: { qemuArgs: await asNobody() } }));
  // Up to here QEMU must be able to go, as to any file of its own.
  await Deno.chmod(s.dir.path, 0o711);
  for (const folder of [s.target, s.dir.join("fleeces")]) {
    await Deno.mkdir(folder);
    await Deno.chown(folder, null, NOGROUP);
    await Deno.chmod(folder, 0o2770);
  }
  stack.move();
  return s;
}
