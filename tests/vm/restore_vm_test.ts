import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { ensurePrograms } from "../support/install_qemu.ts";
import { compare, info } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { filesOf, until } from "../support/scene.ts";
import { hexOf, makeTpmState, readTpmScript, startSwtpm } from "../support/swtpm.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { startVm } from "../support/vm.ts";

const CODE = "/usr/share/OVMF/OVMF_CODE.fd", VARS = "/usr/share/OVMF/OVMF_VARS.fd";

/**
 * What the firmware's own shell runs: it says on the serial line what it finds, on both disks, in the variables and
 * in the TPM. The file `first` is only on the disk of the first start. All is said again and again, since the
 * firmware drops what a busy machine does not take from it in time.
 */
const STARTUP = `@echo -off
connect -r
map -r >nul
for %a in fs0 fs1
  if exist %a:\\first.txt then
    setvar qmpbackup -guid 12345678-1234-1234-1234-123456789abc -bs -nv ="variable"
    rm -q %a:\\first.txt
  endif
endfor
stall 500000
for %i run (1 1000)
  for %a in fs0 fs1
    if exist %a:\\words.txt then
      type %a:\\words.txt
    endif
  endfor
  setvar qmpbackup -guid 12345678-1234-1234-1234-123456789abc
${readTpmScript()}endfor
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

/** What the TPM keeps, and the guest asks it for. */
const TPM_WORD = "tpm word";

/** As the guest prints it: the 8 bytes as one number. */
const TPM_ANSWER = `0x${hexOf(new TextEncoder().encode(TPM_WORD).toReversed()).toUpperCase()}`;

/** Under TCG, on a machine that does other things too, a firmware takes its time. */
const BOOT_SECONDS = 180;

const commandIn = (stdout: string) => /^Start it with: (.*)$/m.exec(stdout)?.[1] ?? "";

/** Starts the VM as it was printed; it is killed at the end. */
function startAsPrinted(command: string) {
  const [program = "", ...args] = command.split(" ");
  const child = new Deno.Command(program, { args, stdin: "null", stdout: "null" }).spawn();
  let hasEnded = false;
  const ended = child.status.finally(() => hasEnded = true);
  const kill = () => {
    if (!hasEnded) child.kill("SIGKILL");
  };
  return {
    kill,
    ended,
    isAlive: () => !hasEnded,
    async [Symbol.asyncDispose]() {
      kill();
      await ended;
    },
  };
}

const VARIABLE = "- qmpbackup - 0008 Bytes";
const SAID = ["from the boot disk", "from the data disk", VARIABLE, TPM_ANSWER];

/** Waits for all that the guest is to say. */
async function sees(serial: string, vm: { isAlive(): boolean }) {
  const said = () => Deno.readTextFile(serial).catch(() => "");
  const hasSaidAll = async () => {
    const text = await said();
    return SAID.every((part) => text.includes(part));
  };
  await until(async () => !vm.isAlive() || await hasSaidAll(), BOOT_SECONDS);
  for (const part of SAID) assertStringIncludes(await said(), part);
}

/** Of all images of a target. */
async function digests(target: string): Promise<string> {
  const images = (await filesOf(target)).filter((file) => /FULL-/.test(file));
  assertEquals(images.length, 3);
  return await mustRun("sha256sum", images.map((file) => join(target, file)));
}

Deno.test("restore vm brings a UEFI guest back, and the printed command starts it", async (t) => {
  await ensurePrograms({ [CODE]: "ovmf", swtpm: "swtpm" });
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
  const tpm = join(host, "tpm"), tpmSocket = join(tpm, "socket");
  await makeTpmState(tpm, TPM_WORD);
  const target = dir.join("target"), out = dir.join("out");
  const data0 = dir.join("data.raw");
  {
    await startSwtpm(tpm, ["--ctrl", `type=unixio,path=${tpmSocket}`]);
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
        ...["-chardev", `socket,id=chrtpm,path=${tpmSocket}`],
        ...["-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-crb,tpmdev=tpm0"],
      ],
    });
    await sees(serial, { isAlive: () => true });
    await succeed([
      ...["backup", "--socket", vm.socket, "--level", "full", "--target", target],
      ...["--include-raw", "--strict", "--save", script, "--save", tpm],
    ]);
    await vm.quit();
    await Deno.copyFile(data, data0);
  }
  const state = await Deno.readFile(join(tpm, "tpm2-00.permall"));
  for (const path of [boot, data, vars, script, serial]) await Deno.remove(path);
  await Deno.remove(tpm, { recursive: true });

  await t.step("restore test boots it with its variables and its TPM", async () => {
    const test = ["restore", "test", "--dir", target, "--accel", "tcg", "--expect", TPM_ANSWER];
    const { stdout } = await succeed([...test, "--timeout", String(BOOT_SECONDS), "--json"]);
    const { state, serialTail } = JSON.parse(stdout);
    assertEquals(state, "booted");
    assertStringIncludes(serialTail.join("\n"), VARIABLE);
  });
  const { stdout } = await succeed(["restore", "vm", "--dir", target, "--target-dir", out]);
  const command = commandIn(stdout);
  assertEquals(command, `sh ${join(out, "start.sh")}`);
  await t.step("with the disks under their own names and in their own formats", async () => {
    await compare(data0, "raw", join(out, "data.raw"), "raw");
    assertEquals((await Deno.stat(join(out, "vars.fd"))).size, (await Deno.stat(VARS)).size);
    assertEquals(
      await Deno.readTextFile(join(out, "saved-vm.conf")),
      "what the administrator kept\n",
    );
    assertEquals(await Deno.readFile(join(out, "swtpm", "tpm2-00.permall")), state);
  });
  await t.step("so that it says what it held, its variables and its TPM too", async () => {
    await using vm = startAsPrinted(command);
    await sees(serial, vm);
  });
  await t.step(
    "and does so at once with --instant, until it does not need the backups",
    async () => {
      await Deno.remove(serial);
      const before = await digests(target), now = dir.join("now");
      const { stdout } = await succeed([
        ...["restore", "vm", "--instant", "--dir", target, "--target-dir", now],
      ]);
      await using vm = startAsPrinted(commandIn(stdout));
      await sees(serial, vm);
      await succeed(["restore", "finish", "--dir", target, "--socket", join(host, "testvm.qmp")]);
      vm.kill();
      await vm.ended;
      assertEquals((await info(join(now, "boot.qcow2"))).backing, undefined);
      await compare(data0, "raw", join(now, "data.raw"), "raw");
      assertEquals(await digests(target), before);
    },
  );
  await t.step("and nothing is written over it", async () => {
    const { code, stderr } = await tool(["restore", "vm", "--dir", target, "--target-dir", out]);
    assertEquals(code, 2);
    assertMatch(stderr, /start\.sh" exists already|exists already, and is not overwritten/);
  });
});
