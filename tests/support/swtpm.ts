/**
 * A TPM that swtpm plays, and what a guest needs to ask it something.
 *
 * Source: TCG, "TPM 2.0 Library", part 3: TPM2_Startup, TPM2_NV_DefineSpace, TPM2_NV_Write, TPM2_NV_Read; TCG,
 * "PC Client Platform TPM Profile": the registers of a command response buffer (CRB).
 *
 * @module
 */

import { join } from "@std/path";
import { mustRun } from "./run.ts";

/** Owner, without a password. */
const OWNER = "40000001", INDEX = "01500016", NO_PASSWORD = "00000009 40000009 0000 00 0000";
const STARTUP = command("8001", "00000144", "0000");
const READ = command("8002", "0000014e", `${OWNER} ${INDEX} ${NO_PASSWORD} 0008 0000`);

function bytesOf(hex: string): number[] {
  return hex.replaceAll(" ", "").match(/../g)?.map((byte) => parseInt(byte, 16)) ?? [];
}

/** Two digits for each byte. */
export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function command(tag: string, code: string, rest: string): Uint8Array<ArrayBuffer> {
  const body = bytesOf(code + rest);
  const length = (body.length + 6).toString(16).padStart(8, "0");
  return new Uint8Array([...bytesOf(tag + length), ...body]);
}

/** Makes a folder with the state of a TPM that keeps 8 characters. */
export async function makeTpmState(folder: string, word: string): Promise<void> {
  await Deno.mkdir(folder);
  // Its end removes the socket: the next one has another.
  const socket = join(folder, "first");
  await startSwtpm(folder, ["--server", `type=unixio,path=${socket}`, "--flags", "not-need-init"]);
  using conn = await Deno.connect({ transport: "unix", path: socket });
  const data = hexOf(new TextEncoder().encode(word));
  const requests = [
    STARTUP,
    command(
      "8002",
      "0000012a",
      `${OWNER} ${NO_PASSWORD} 0000 000e ${INDEX} 000b 02060006 0000 0008`,
    ),
    command("8002", "00000137", `${OWNER} ${INDEX} ${NO_PASSWORD} 0008 ${data} 0000`),
    command("8001", "00000145", "0000"),
  ];
  for (const request of requests) {
    await conn.write(request);
    const answer = new Uint8Array(4096);
    await conn.read(answer);
    const code = new DataView(answer.buffer).getUint32(6);
    if (code !== 0) throw new Error(`The TPM answers 0x${code.toString(16)}`);
  }
}

/** Starts swtpm in the background: its socket is there then. It ends with its first user. */
export async function startSwtpm(folder: string, args: string[]): Promise<void> {
  const always = ["--tpmstate", `dir=${folder}`, "--terminate", "--daemon"];
  await mustRun("swtpm", ["socket", "--tpm2", ...always, ...args]);
}

const BUFFER = 0xfed40080;

/** Where the guest finds the 8 bytes, as it prints the address. */
export const ANSWER_AT = (BUFFER + 16).toString(16).toUpperCase().padStart(16, "0");

/**
 * Lines for the UEFI shell that ask the TPM for its 8 bytes, and print them. As the shell does not wait for the
 * answer, they are run until it is there.
 */
export function readTpmScript(): string {
  const write = (address: number, width: number, value: string) =>
    `mm ${address.toString(16)} ${value} -w ${width} -MMIO -n\n`;
  const ask = (bytes: Uint8Array) => {
    const words = Array.from({ length: Math.ceil(bytes.length / 8) }, (_, i) => {
      const word = new Uint8Array(8);
      word.set(bytes.subarray(8 * i, 8 * i + 8));
      return write(BUFFER + 8 * i, 8, hexOf(word.toReversed()));
    });
    return words.join("") + write(0xfed4004c, 4, "1") + "stall 100000\n";
  };
  return write(0xfed40008, 4, "1") + write(0xfed40040, 4, "1") + ask(STARTUP) + ask(READ) +
    `mm ${(BUFFER + 16).toString(16)} -w 8 -MMIO -n\n`;
}
