import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { ensurePrograms } from "../support/install_qemu.ts";
import { compare } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { until } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { startVm } from "../support/vm.ts";

const CODE = "/usr/share/OVMF/OVMF_CODE.fd", VARS = "/usr/share/OVMF/OVMF_VARS.fd";

/**
 * What the firmware's own shell runs: it says on the serial line what it finds, on both disks and in the
 * variables. The file `first` is only on the disk of the first start.
 */
const STARTUP = `@echo -off
connect -r
map -r
echo WORDS-BEGIN
for %a in fs0 fs1
  if exist %a:\\words.txt then
    type %a:\\words.txt
  endif
  if exist %a:\\first.txt then
    setvar qmpbackup -guid 12345678-1234-1234-1234-123456789abc -bs -nv ="variable"
    rm -q %a:\\first.txt
  endif
endfor
setvar qmpbackup -guid 12345678-1234-1234-1234-123456789abc
echo WORDS-END
reset -s
`;

/** An image with a FAT file system of these files. */
async function makeFat(work: string, image: string, format: string, files: Record<string, string>) {
  await Deno.mkdir(work);
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(join(work, name), text.replaceAll("\n", "\r\n"));
  }
  await mustRun("qemu-img", ["convert", "-f", "raw", "-O", format, `fat:${work}`, image]);
  await Deno.remove(work, { recursive: true });
}

/** Under TCG, on a machine that does other things too, a firmware takes its time. */
const BOOT_SECONDS = 180;

/** What the guest said last between its two marks. */
async function words(serial: string): Promise<string | null> {
  const text = await Deno.readTextFile(serial).catch(() => "");
  return /WORDS-BEGIN([^]*)WORDS-END/.exec(text.slice(text.lastIndexOf("WORDS-BEGIN")))?.[1] ??
    null;
}

Deno.test("restore vm brings a UEFI guest back, and the printed command starts it", async (t) => {
  await ensurePrograms({ [CODE]: "ovmf" });
  await using dir = await tempDir();
  const host = dir.join("host");
  await Deno.mkdir(host);
  const [boot, data, vars, script, serial] = [
    ...["boot.qcow2", "data.raw", "vars.fd", "vm.conf", "serial.log"],
  ].map((name) => join(host, name)) as [string, string, string, string, string];
  await makeFat(join(host, "esp"), boot, "qcow2", {
    "startup.nsh": STARTUP,
    "words.txt": "from the boot disk\n",
    "first.txt": "",
  });
  await makeFat(join(host, "fat"), data, "raw", { "words.txt": "from the data disk\n" });
  await Deno.copyFile(VARS, vars);
  await Deno.writeTextFile(script, "what the administrator kept\n");
  const target = dir.join("target"), out = dir.join("out");
  const before = dir.join("before.raw");
  {
    await using vm = await startVm({
      dir: host,
      disks: [],
      running: true,
      memoryMiB: 256,
      qemuArgs: [
        ...["-machine", "q35", "-no-shutdown", "-serial", `file:${serial}`],
        ...["-drive", `if=pflash,unit=0,readonly=on,format=raw,file=${CODE}`],
        ...["-drive", `if=pflash,unit=1,format=raw,file=${vars}`],
        ...["-device", "virtio-scsi-pci,id=scsi0"],
        ...["-blockdev", `qcow2,node-name=boot,file.driver=file,file.filename=${boot}`],
        ...["-device", "scsi-hd,drive=boot,scsi-id=0,lun=0,bootindex=1,serial=boot-1"],
        ...["-blockdev", `raw,node-name=data,file.driver=file,file.filename=${data}`],
        ...["-device", "scsi-hd,drive=data,scsi-id=0,lun=1"],
      ],
    });
    const isOver = () => vm.events.some(({ event }) => event === "SHUTDOWN");
    await until(async () => isOver() && await words(serial) !== null, BOOT_SECONDS);
    await succeed([
      ...["backup", "--socket", vm.socket, "--level", "full", "--target", target],
      ...["--include-raw", "--save", script],
    ]);
    await vm.quit();
    await Deno.copyFile(data, before);
  }
  for (const path of [boot, data, vars, script, serial]) await Deno.remove(path);

  const { stdout } = await succeed(["restore", "vm", "--dir", target, "--target-dir", out]);
  const command = /^Start it with: (.*)$/m.exec(stdout)?.[1] ?? "";
  assertEquals(command, `sh ${join(out, "start.sh")}`);
  await t.step("with the disks under their own names and in their own formats", async () => {
    await compare(before, "raw", join(out, "data.raw"), "raw");
    assertEquals((await Deno.stat(join(out, "vars.fd"))).size, (await Deno.stat(VARS)).size);
    assertEquals(
      await Deno.readTextFile(join(out, "saved-vm.conf")),
      "what the administrator kept\n",
    );
  });
  await t.step("so that it says what it held, its variables too", async () => {
    const [program = "", ...args] = command.split(" ");
    const child = new Deno.Command(program, { args, stdin: "null", stdout: "null" }).spawn();
    await using _child = {
      async [Symbol.asyncDispose]() {
        child.kill("SIGKILL");
        await child.status;
      },
    };
    await until(async () => await words(serial) !== null, BOOT_SECONDS);
    const said = await words(serial) ?? "";
    for (const part of ["from the boot disk", "from the data disk", "- qmpbackup - 0008 Bytes"]) {
      assertStringIncludes(said, part);
    }
  });
  await t.step("and nothing is written over it", async () => {
    const { code, stderr } = await tool(["restore", "vm", "--dir", target, "--target-dir", out]);
    assertEquals(code, 2);
    assertMatch(stderr, /start\.sh" exists already|exists already, and is not overwritten/);
  });
});
