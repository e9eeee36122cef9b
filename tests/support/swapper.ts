/**
 * Somebody else with a right to a folder, who puts a link in the place of each file that appears there. Needs
 * root, to be somebody else.
 *
 * @module
 */

import { join } from "@std/path";
import type { TempDir } from "./temp_dir.ts";

/** How often each race is run. */
export const RACES = Number(Deno.env.get("QMPBACKUP_TEST_RACES") ?? 10);

/** The user and the group "nobody". */
export const NOBODY = 65534;

const SCRIPT = `
  my ($pattern, $victim, $nowhere, @roots) = @ARGV;
  my $count = 0;
  $| = 1;
  sub look {
    my ($dir, $depth) = @_;
    opendir(my $handle, $dir) or return;
    my @names = readdir $handle;
    closedir $handle;
    for my $name (@names) {
      next if $name =~ /^\\.\\.?$/ || $name =~ /^stolen/;
      my $path = "$dir/$name";
      next if -l $path;
      if (-d _) { look($path, $depth - 1) if $depth > 0; next }
      next unless $name =~ /$pattern/;
      rename($path, "$dir/stolen" . $count++) or next;
      symlink($count % 2 ? $victim : $nowhere, $path);
      print "$path\\n";
    }
  }
  print "ready\\n";
  while (1) { look($_, 3) for @roots }
`;

export interface Swapper extends AsyncDisposable {
  /** How many files it has put a link in the place of. */
  readonly swaps: number;
  /** Fails if anything was written or made by way of a link. */
  assertUntouched(): Promise<void>;
}

/**
 * Starts one.
 *
 * @param pattern A regular expression of Perl's: the names that it waits for.
 * @param folders It looks into the folders in these, too.
 */
export async function startSwapper(
  dir: TempDir,
  pattern: string,
  ...folders: string[]
): Promise<Swapper> {
  const outside = dir.join("outside");
  await Deno.mkdir(outside);
  const victim = join(outside, "victim");
  await Deno.writeTextFile(victim, "precious", { mode: 0o604 });
  await Deno.chmod(victim, 0o604);
  const ids = ["--reuid", String(NOBODY), "--regid", String(NOBODY), "--clear-groups"];
  const perl = ["perl", "-e", SCRIPT, pattern, victim, join(outside, "nowhere"), ...folders];
  const child = new Deno.Command("setpriv", {
    args: [...ids, ...perl],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const { promise: ready, resolve: isReady } = Promise.withResolvers<void>();
  let lines = -1;
  const reading = (async () => {
    for await (const chunk of child.stdout) {
      lines += chunk.filter((byte) => byte === 0x0a).length;
      isReady();
    }
  })();
  await ready;
  return {
    get swaps() {
      return lines;
    },
    async assertUntouched() {
      const names = await Array.fromAsync(Deno.readDir(outside), ({ name }) => name);
      const { mode } = await Deno.stat(victim);
      const found = [
        names.join(),
        await Deno.readTextFile(victim),
        ((mode ?? 0) & 0o777).toString(8),
      ];
      if (found.join(" ") === "victim precious 604") return;
      throw new Error(`Written by way of a link: ${JSON.stringify(found).slice(0, 300)}`);
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.status;
      await reading;
    },
  };
}
