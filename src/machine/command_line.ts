/**
 * QEMU's command line, as `/proc/PID/cmdline` has it. Pure.
 *
 * Source: QEMU's manual, "Invocation": in a list of `key=value` a comma in a value is written twice; what
 * begins with `{` is JSON.
 *
 * @module
 */

import { parseJson } from "../json.ts";
import { valueWithoutSecrets, withoutSecrets } from "../secrets.ts";

/** So much of a command line is kept in a record; a longer one is not kept at all. */
const MAX_CHARACTERS = 64 << 10;

/** Splits what stands in `/proc/PID/cmdline`; null if it is too long, or nothing. */
export function splitCommandLine(text: string): string[] | null {
  const argv = text.replace(/\0$/, "").split("\0");
  return text === "" || text.length > MAX_CHARACTERS ? null : argv;
}

/**
 * Whether a command line is that of the VM that we talk to: the thread's number that QEMU told us may mean
 * another process here, if QEMU runs in a container.
 */
export function isOfVm(
  argv: string[],
  vm: { name: string; uuid: string; socket: string },
): boolean {
  if (!argv.some((arg) => ["-qmp", "-chardev", "-mon", "-readconfig"].includes(arg))) return false;
  const isSaid = (text: string) => text !== "" && argv.some((arg) => arg.includes(text));
  return isSaid(vm.socket) || isSaid(vm.uuid) || (vm.name.length > 2 && isSaid(vm.name));
}

/** Takes the secrets out of a command line. */
export function commandLineWithoutSecrets(argv: string[]): string[] {
  return argv.map((arg, i) => optionWithoutSecrets(argv[i - 1] ?? "", arg));
}

const HIDDEN = "***";

/** @param option The option that this is the value of. */
function optionWithoutSecrets(option: string, arg: string): string {
  const json = arg.startsWith("{") ? jsonOf(arg) : null;
  if (json !== null) {
    const hidden = isSecretObject(json["qom-type"]) && "data" in json ? { data: HIDDEN } : {};
    return JSON.stringify(valueWithoutSecrets({ ...json, ...hidden }));
  }
  const type = /^(?:qom-type=)?([^,]*)/.exec(arg)?.[1];
  const withoutData = option === "-object" && isSecretObject(type)
    ? arg.replace(/((?:^|,)data=)(?:,,|[^,])*/g, `$1${HIDDEN}`)
    : option === "-fw_cfg"
    ? arg.replace(/((?:^|,)string=)(?:,,|[^,])*/g, `$1${HIDDEN}`)
    : arg;
  return withoutSecrets(withoutData)
    .replace(/(io\.systemd\.credential[\w.]*:[^=]*=)(?:,,|[^,\s])*/g, `$1${HIDDEN}`);
}

const isSecretObject = (type: unknown) => type === "secret" || type === "secret_keyring";

/** Whether something was taken out of a command line that it needs. */
export function lacksSecret(argv: string[]): boolean {
  return argv.some((arg) => arg.includes(HIDDEN));
}

/** An option's value as JSON has it; null if it is none. */
export function jsonOf(arg: string): Record<string, unknown> | null {
  try {
    const json = parseJson(arg);
    return typeof json === "object" && json !== null && !Array.isArray(json)
      ? Object.fromEntries(Object.entries(json))
      : null;
  } catch {
    return null;
  }
}

/** The parts of `a,key=value,…`; a value's commas are single ones then. */
export function splitOption(arg: string): { key: string | null; value: string }[] {
  const parts = arg.match(/(?:,,|[^,])+/g) ?? [];
  return parts.map((part) => {
    const [, key = null, value = part] = /^([\w.-]+)=(.*)$/s.exec(part) ?? [];
    return { key, value: value.replaceAll(",,", ",") };
  });
}

/** The opposite of `splitOption()`. */
export function joinOption(parts: { key: string | null; value: string }[]): string {
  return parts.map(({ key, value }) =>
    (key === null ? "" : `${key}=`) + value.replaceAll(",", ",,")
  ).join(",");
}
