/**
 * The one table of subcommands and flags: parsing, help, completions and the manual page are made from
 * it.
 *
 * @module
 */

/** How a flag's value is read. */
export type FlagKind = "switch" | "text" | "pair" | "list" | "files" | "count" | "size" | "choice";

export interface Flag {
  kind: FlagKind;
  /** What it does; a subcommand where it does something else says so in `says`. */
  help: string;
  short?: string;
  /** What the help calls the value. */
  value?: string;
  choices?: readonly string[];
  /** The value of a flag that may be given without one. */
  implied?: string;
  /** Other spellings that people use. */
  aliases?: readonly string[];
}

export const FLAGS = {
  socket: {
    kind: "text",
    value: "PATH",
    help: "QMP socket of the VM: a path, or tcp:HOST:PORT",
  },
  "via-hmp": {
    kind: "text",
    value: "PATH",
    help:
      "QEMU's human monitor, which makes the --socket first if the VM does not have it (QEMU 11.1)",
  },
  "agent-socket": {
    kind: "text",
    value: "PATH",
    help:
      "the guest agent's socket (a path, tcp:HOST:PORT, or vsock:CID:PORT); with it the file systems of " +
      "a VM with several disks are frozen",
  },
  "agent-timeout": {
    kind: "count",
    value: "SECONDS",
    help: "how long the agent may take to answer (10)",
  },
  timeout: { kind: "count", value: "SECONDS", help: "how long QEMU may take to answer (30)" },
  logfile: { kind: "text", short: "L", value: "FILE", help: "append the log to FILE as well" },
  syslog: { kind: "switch", help: "log to syslog as well (through logger)" },
  debug: { kind: "switch", help: "log every QMP message and command too" },
  quiet: {
    kind: "switch",
    help: "print only warnings and errors, for cron; --logfile and --syslog still get everything",
  },
  json: { kind: "switch", help: "print results as JSON, one object per line" },
  help: { kind: "switch", short: "h", help: "print this help" },
  version: { kind: "switch", help: "print the version" },

  level: {
    kind: "choice",
    short: "l",
    choices: ["copy", "full", "inc", "diff", "auto"],
    help:
      "full: everything. inc: what changed since the last backup. auto: inc for each disk that can " +
      "have one, full for the others. diff: as auto, but all that changed since the last full " +
      "backup. copy: everything, outside the chain",
  },
  "full-every": {
    kind: "text",
    value: "WHEN",
    help:
      "with auto or diff: take a full backup when the last one is older than this (30d), when it " +
      "has this many increments (20), or when these have this many times its bytes (ratio:1.0)",
  },
  target: {
    kind: "text",
    short: "t",
    value: "DIR",
    help: "where the backups go; made if missing",
  },
  mode: {
    kind: "text",
    value: "OCTAL",
    help:
      "mode of new files (0600); use 0660 and a folder of QEMU's group if QEMU runs as another " +
      "user",
  },
  include: {
    kind: "list",
    short: "i",
    value: "A,B",
    help: "only these disks, by node or device name",
  },
  exclude: { kind: "list", short: "e", value: "A,B", help: "all disks but these" },
  "include-raw": {
    kind: "switch",
    help: "raw disks too; their bitmap is lost when QEMU ends",
  },
  uuid: {
    kind: "text",
    value: "ID",
    help: "the chain's id in a new target, instead of a random one",
  },
  "speed-limit": {
    kind: "size",
    value: "BYTES",
    help: "bytes per second for each disk; 50M and 1G count by 1024, as QEMU does; 0 is no limit",
  },
  compress: {
    kind: "choice",
    choices: ["zstd", "zlib"],
    implied: "zstd",
    help:
      "compress the images: by zstd, or by zlib where QEMU has no zstd; =zlib for QEMU before 5.1",
  },
  encrypt: {
    kind: "switch",
    help:
      "encrypt the images with the key in --key-file; a target with encrypted backups goes on so by itself",
  },
  "key-file": {
    kind: "text",
    value: "FILE",
    help:
      "the key of encrypted backups: all bytes of FILE (systemd's credential qmpbackup-key, if there is one)",
  },
  "fleece-dir": {
    kind: "text",
    value: "DIR",
    help:
      "where QEMU keeps the old data of what the guest overwrites during the backup (beside each " +
      "disk); use fast storage: guest writes wait for it",
  },
  "on-lost-bitmap": {
    kind: "choice",
    choices: ["full", "compare"],
    help:
      "for a disk whose bitmap was lost (QEMU was killed, QEMU of a raw disk was restarted, the " +
      "VM moved to another host): full takes a new full backup of it; compare reads the whole " +
      "disk, stores what differs from the last backup, and the chain goes on (full)",
  },
  quiesce: {
    kind: "choice",
    choices: ["try", "require"],
    implied: "try",
    help:
      "freeze the guest's file systems, even for a single disk; if that fails it is a warning, " +
      "with =require an error",
  },
  pause: { kind: "switch", help: "stop the guest for the point in time, even for a single disk" },
  "no-subdir": { kind: "switch", help: "no folder for each disk" },
  "no-timestamp": {
    kind: "switch",
    help: "name full backups and copies like the disk; a new one replaces the last, unless " +
      "increments build on it",
  },
  "no-symlink": { kind: "switch", help: "with --no-timestamp: no link FULL-<name> beside it" },
  verify: {
    kind: "switch",
    help:
      "compare each new image with the disk as it was at the point in time: reads the whole disk, and " +
      "a disk whose image differs has failed",
  },
  "no-digest": {
    kind: "switch",
    help:
      "don't read each finished image back to record its digests, which restore verify compares",
  },
  monthly: { kind: "switch", help: "the target is DIR/YYYY-MM: with auto, one chain a month" },
  "remove-delay": {
    kind: "count",
    value: "SECONDS",
    help: "wait this long before a finished image is closed (0)",
  },
  "blockdev-disable-cache": {
    kind: "choice",
    choices: ["yes", "no"],
    implied: "yes",
    help:
      "write the images past the host's page cache; =no: through it (much data as a sample shows is " +
      "faster on this target, little data through it)",
  },
  "blockdev-aio": {
    kind: "choice",
    choices: ["threads", "io_uring"],
    help: "how QEMU writes the images",
  },
  "cbw-timeout": {
    kind: "count",
    value: "SECONDS",
    help:
      "how long a guest write may wait until the old data is kept; after that the backup fails " +
      "(no limit)",
  },
  "stall-timeout": {
    kind: "count",
    value: "SECONDS",
    help: "give up the backup if the target makes no progress for this long (300)",
  },
  "progress-interval": {
    kind: "count",
    value: "SECONDS",
    help: "time between two lines of progress if there is no terminal (30)",
  },
  strict: { kind: "switch", help: "exit with code 3 if there were warnings" },
  save: {
    kind: "files",
    value: "PATH",
    help:
      "keep a copy of this file or folder beside the backup: a start script, a domain's XML, the " +
      "folder of swtpm's state; can be given several times",
  },
  before: {
    kind: "text",
    value: "FILE",
    help:
      "a program to run before anything is changed, without arguments and without a shell; it gets " +
      "the run's record as JSON on stdin, and if it fails there is no backup",
  },
  after: {
    kind: "text",
    value: "FILE",
    help:
      "a program to run after the backup, done or failed; it gets the final record as JSON on " +
      "stdin, and if it fails that is a warning",
  },
  "hook-timeout": {
    kind: "count",
    value: "SECONDS",
    help: "how long --before and --after may each take (300)",
  },
  "metrics-file": {
    kind: "text",
    value: "FILE",
    help: "write the result to FILE in Prometheus' text format, for node_exporter's textfile " +
      "collector; one FILE for each VM",
  },

  dir: {
    kind: "text",
    value: "DIR",
    help: "a disk's folder, or with --target-dir the whole backup directory",
  },
  targetfile: { kind: "text", value: "FILE", help: "the new file; never overwritten" },
  "target-dir": {
    kind: "text",
    value: "DIR",
    help: "restore all disks of a run into this folder",
  },
  instant: {
    kind: "switch",
    help:
      "start at once, on thin overlays that read from the backups; restore finish moves the data " +
      "in while the guest runs (disks that are not qcow2 are restored as a whole)",
  },
  "allow-missing": {
    kind: "switch",
    help: "with --target-dir: restore a run that lacks some of the VM's disks, too",
  },
  until: {
    kind: "text",
    value: "WHEN",
    help:
      "an image's name, a run's id, or a local time such as \"2026-11-22 23:00\" (the newest image; " +
      "with --target-dir the newest run that has all disks)",
  },
  format: {
    kind: "choice",
    choices: ["qcow2", "raw", "same"],
    aliases: ["output-format"],
    help: "format of the new file; same is that of the disk that was backed up (qcow2)",
  },
  preallocation: {
    kind: "choice",
    choices: ["metadata", "falloc", "full"],
    help: "reserve the space of the new file first, as qemu-img does (off)",
  },
  "overwrite-device": {
    kind: "switch",
    help: "let --targetfile be a block device, such as /dev/vg/lv: all it holds is lost",
  },
  filter: {
    kind: "text",
    value: "TEXT",
    help: "only the images whose name contains TEXT, if disks share a folder",
  },
  nbd: {
    kind: "switch",
    help: "serve the disks read-only by NBD, on a unix socket in --target-dir (/run/qmpbackup)",
  },
  list: {
    kind: "text",
    value: "PATH",
    implied: "/",
    help: "list a folder of the disk (/)",
  },
  expect: {
    kind: "text",
    value: "TEXT",
    help: "the sign of life is this text on the serial console",
  },
  "wait-for": {
    kind: "choice",
    choices: ["agent", "shutdown", "exit"],
    help:
      "the sign of life: the guest agent answers, the guest shuts down, or it writes 0 to the port " +
      "0xf4 (agent)",
  },
  screenshot: {
    kind: "text",
    value: "FILE",
    help: "write a picture of the screen to FILE, as PNG",
  },
  firmware: {
    kind: "text",
    value: "FILE",
    help: "the firmware, such as /usr/share/OVMF/OVMF_CODE_4M.fd (what the record says)",
  },
  memory: { kind: "size", value: "BYTES", help: "the VM's memory (what it had, at most 2G)" },
  accel: {
    kind: "choice",
    choices: ["kvm", "tcg"],
    help: "how the VM is run (kvm, or tcg if this host has no KVM)",
  },
  copy: { kind: "text", value: "PATH", help: "copy this file or folder" },
  detach: {
    kind: "text",
    value: "NAME",
    help: "undo an attachment: its name, or all; dead ones too",
  },
  "rate-limit": {
    kind: "size",
    value: "BYTES",
    help: "bytes per second; 50M and 1G count by 1024, as QEMU does; 0 is no limit",
  },
  subset: {
    kind: "text",
    value: "SHARE",
    help: "read only this share of the contents, such as 1/7 or 10%: a different share each day",
  },
  reset: {
    kind: "switch",
    help:
      "stop the guest first, and reset it afterwards: its memory knows what was on its disks. Needed " +
      "unless it was started with -S or has shut down",
  },
  "no-safety-backup": {
    kind: "switch",
    help: "take no increment first: what the disks hold now is lost",
  },
  "dry-run": { kind: "switch", help: "only say what would be done" },
  "skip-check": { kind: "switch", help: "don't check the images' metadata first" },

  recover: {
    kind: "switch",
    help:
      "clean up after a killed run: resume or thaw the guest, remove its jobs and nodes from QEMU, " +
      "delete unfinished files",
  },
  root: {
    kind: "text",
    value: "DIR",
    help: "write the files below DIR (/ is the system itself); existing files are not overwritten",
  },
  run: { kind: "text", value: "ID", help: "the run that holds the guest" },
  show: {
    kind: "choice",
    choices: ["blockdev", "bitmaps", "backups"],
    help: "what to show (blockdev with --socket, backups with --dir)",
  },
  last: { kind: "count", value: "N", help: "only the last N runs" },
  disk: { kind: "text", value: "NAME", help: "only the backups of this disk" },
  all: { kind: "switch", help: "every image, with its file and what it builds on" },
  "max-age": {
    kind: "text",
    value: "TIME",
    help: "exit with code 1 if a VM's newest backup of all disks is older than this: 26h, 90m, 2d",
  },
  html: {
    kind: "text",
    value: "FILE",
    help: "write a page to look at: one file, which needs nothing else and no network",
  },
  nagios: {
    kind: "switch",
    help: "print one line for Nagios or Icinga, and exit with 0, 1, 2 or 3 as they expect it " +
      "(--max-age is 26h then, if not given)",
  },
  prune: {
    kind: "switch",
    help:
      "remove the restore points that no --keep flag keeps, and merge their images into those that " +
      "stay. A run is a point, with all its disks",
  },
  "keep-within": {
    kind: "text",
    value: "DURATION",
    help: "keep all points at most this much older than the newest: 30d, 1y6m, 2y5m7d3h",
  },
  "keep-last": { kind: "count", value: "N", help: "keep the last N points" },
  "keep-hourly": {
    kind: "count",
    value: "N",
    help: "keep the newest point of each of the last N hours that have one. The rules add up in " +
      "the order of this list, as in Proxmox Backup Server: an hour (or a day) is not counted if " +
      "an earlier rule keeps a point of it",
  },
  "keep-daily": { kind: "count", value: "N", help: "the same for days, by local time" },
  "keep-weekly": { kind: "count", value: "N", help: "the same for weeks, from Monday on" },
  "keep-monthly": { kind: "count", value: "N", help: "the same for months" },
  "keep-yearly": { kind: "count", value: "N", help: "the same for years" },
  protect: { kind: "text", value: "RUN", help: "never remove the points of this run" },
  unprotect: { kind: "text", value: "RUN", help: "allow again to remove the points of this run" },
  note: {
    kind: "pair",
    value: "RUN TEXT",
    help: 'write a note on a run, which info shows; "" removes it',
  },
  "remove-bitmap": {
    kind: "switch",
    aliases: ["remove-bitmaps"],
    help: "remove the bitmaps made by qmpbackup from the VM's disks; the next backup is a full one",
  },
} as const satisfies Record<string, Flag>;

export type FlagName = keyof typeof FLAGS;

/** Taken by every subcommand, before or after its name. */
export const GLOBAL_FLAGS = ["logfile", "syslog", "debug", "json", "help", "version"] as const;
const VM_FLAGS = ["socket", "via-hmp", "timeout"] as const;
/** What `--dir` is where one chain is changed in place, and where a backup directory is looked at. */
const ONE_DISK = { dir: "the disk's folder" } as const;
const BACKUPS = {
  dir:
    "the backup directory of a VM, that of its months, or a folder that holds those of several VMs",
} as const;
const LIST_FLAGS = ["last", "disk", "all", "max-age", "nagios", "html"] as const;
/** In the order in which the rules are applied. */
export const KEEP_FLAGS = [
  ...["keep-within", "keep-last", "keep-hourly", "keep-daily", "keep-weekly"] as const,
  ...["keep-monthly", "keep-yearly"] as const,
] as const;
const IN_PLACE_FLAGS = [
  ...["until", "filter", "rate-limit", "dry-run", "skip-check", "no-digest"] as const,
];

export interface Command {
  summary: string;
  /** Not for people: left out of the help. */
  hidden?: true;
  required: readonly FlagName[];
  optional: readonly FlagName[];
  /** What a flag does here, if that is not what it does elsewhere. */
  says?: Readonly<Partial<Record<FlagName, string>>>;
  /** Each with the sentence that says what it does. */
  examples: readonly { does: string; line: string }[];
}

/** One subcommand for each shell, so that none of them takes an argument. */
function completions(shell: "bash" | "zsh" | "fish", file: string) {
  return {
    summary: `Print the completions for ${shell}`,
    required: [],
    optional: [],
    examples: [
      { does: `Install them for ${shell}`, line: `qmpbackup completions ${shell} >${file}` },
    ],
  } as const;
}

export const COMMANDS = {
  backup: {
    summary: "Back up the disks of a running VM",
    required: ["socket", "level", "target"],
    optional: [
      ...["via-hmp", "timeout", "agent-socket", "agent-timeout", "quiesce"] as const,
      ...["include", "exclude"] as const,
      ...["include-raw", "uuid", "speed-limit", "compress", "encrypt", "key-file"] as const,
      ...["fleece-dir", "pause"] as const,
      ...["on-lost-bitmap"] as const,
      ...["monthly", "remove-delay", "blockdev-disable-cache", "blockdev-aio"] as const,
      ...["cbw-timeout", "stall-timeout", "progress-interval", "no-subdir"] as const,
      ...["no-timestamp", "no-symlink", "verify", "no-digest", "mode", "strict"] as const,
      ...["quiet", "full-every", ...KEEP_FLAGS] as const,
      ...["save", "before", "after", "hook-timeout", "metrics-file"] as const,
    ],
    examples: [
      {
        does: "Every night: a full backup the first time, increments from then on",
        line: "qmpbackup backup --socket /run/vm1.qmp --level auto --target /backup/vm1",
      },
      {
        does: "One disk, at 50 MB a second at most",
        line: "qmpbackup --socket /run/vm1.qmp backup -l full -t /backup/vm1 -i disk0 " +
          "--speed-limit 50000000",
      },
    ],
  },
  "restore merge": {
    summary: "Restore a point in time into new files; the backups are only read",
    required: ["dir"],
    optional: [
      ...["targetfile", "target-dir", "until", "filter", "format", "rate-limit"] as const,
      ...["preallocation", "compress", "overwrite-device", "key-file"] as const,
      ...["skip-check", "mode", "allow-missing", "strict", "quiet"] as const,
    ],
    examples: [
      {
        does: "The newest state of one disk",
        line: "qmpbackup restore merge --dir /backup/vm1/disk0 --targetfile /vm/disk0.qcow2",
      },
      {
        does: "All disks as they were last evening",
        line: "qmpbackup restore merge --dir /backup/vm1 --target-dir /vm/restored " +
          '--until "2026-11-21 20:00"',
      },
    ],
  },
  "restore rebase": {
    summary: "Set a chain's backing links in place, and link `image` to the newest",
    required: ["dir"],
    optional: ["until", "filter", "dry-run", "skip-check", "no-digest"],
    says: ONE_DISK,
    examples: [
      {
        does: "Make a chain of the Python qmpbackup readable for any QEMU tool",
        line: "qmpbackup restore rebase --dir /backup/vm1/disk0",
      },
    ],
  },
  "restore commit": {
    summary: "Commit increments into their full backup and remove them, in place",
    required: ["dir"],
    optional: [...IN_PLACE_FLAGS],
    says: ONE_DISK,
    examples: [
      {
        does: "See what would be done",
        line: "qmpbackup restore commit --dir /backup/vm1/disk0 --dry-run",
      },
    ],
  },
  "restore snapshotrebase": {
    summary: "Like commit, with an internal snapshot for each point in time",
    required: ["dir"],
    optional: [...IN_PLACE_FLAGS],
    says: ONE_DISK,
    examples: [
      {
        does: "One image that holds every point in time",
        line: "qmpbackup restore snapshotrebase --dir /backup/vm1/disk0",
      },
    ],
  },
  "restore attach": {
    summary: "Open a point in time at once, to read it or to start a VM on it",
    required: ["dir"],
    optional: [
      ...["target-dir", "nbd", "until", "filter", "allow-missing", "mode"] as const,
      ...["list", "detach", "strict", "key-file"] as const,
    ],
    says: {
      dir: "the backup directory, or one disk's folder",
      "target-dir": "put thin overlays of all disks into this folder, to start a VM on",
      list: "show what is attached",
    },
    examples: [
      {
        does: "All disks as they were last evening, to start a VM on",
        line: "qmpbackup restore attach --dir /backup/vm1 --target-dir /vm/try " +
          '--until "2026-11-21 20:00"',
      },
      {
        does: "The newest state of one disk, to read from",
        line: "qmpbackup restore attach --dir /backup/vm1/disk0 --nbd",
      },
      { does: "Detach all", line: "qmpbackup restore attach --dir /backup/vm1 --detach all" },
    ],
  },
  "restore verify": {
    summary: "Check that all backups are there and hold what was backed up",
    required: ["dir"],
    optional: ["subset", "filter", "metrics-file", "key-file"],
    says: {
      dir: "a disk's folder, a backup directory, or a folder of backup directories",
      "metrics-file":
        "write the result to FILE in Prometheus' text format; it may be the FILE of the backups",
    },
    examples: [
      { does: "Everything", line: "qmpbackup restore verify --dir /backup/vm1" },
      {
        does: "All VMs, a seventh each night: in a week everything is read",
        line: "qmpbackup restore verify --dir /backup --subset 1/7",
      },
    ],
  },
  "restore test": {
    summary: "Boot a point in time in a VM without a network, to see whether it works",
    required: ["dir"],
    optional: [
      ...["expect", "wait-for", "timeout", "screenshot", "firmware", "memory", "accel"] as const,
      ...["until", "filter", "allow-missing", "metrics-file", "key-file"] as const,
    ],
    says: {
      dir: "the backup directory, or one disk's folder",
      timeout: "how long the sign of life may take (300)",
      "metrics-file":
        "write the result to FILE in Prometheus' text format; it may be the FILE of the backups",
    },
    examples: [
      {
        does: "Every week: does the newest backup boot?",
        line: "qmpbackup restore test --dir /backup/vm1 --screenshot /var/tmp/vm1.png",
      },
      {
        does: "A guest without the agent, by its login prompt",
        line: 'qmpbackup restore test --dir /backup/vm1 --expect "login:"',
      },
    ],
  },
  "restore files": {
    summary: "List and copy single files of a point in time, without root",
    required: ["dir"],
    optional: ["list", "copy", "target-dir", "until", "filter", "mode", "strict", "key-file"],
    says: {
      ...ONE_DISK,
      list: "list a folder, such as /1/etc: 1 is the partition (/ lists the partitions)",
      copy: "copy this file or folder, such as /1/etc/hostname",
      "target-dir": "the folder that --copy copies into",
    },
    examples: [
      {
        does: "See the partitions of a disk, and a folder in one",
        line: "qmpbackup restore files --dir /backup/vm1/disk0 --list",
      },
      {
        does: "Copy a folder out of the newest backup",
        line: "qmpbackup restore files --dir /backup/vm1/disk0 --copy /1/etc --target-dir /tmp/etc",
      },
    ],
  },
  "restore vm": {
    summary: "Restore a whole VM: its disks as they were, and what starts it",
    required: ["dir", "target-dir"],
    optional: [
      ...["until", "allow-missing", "instant", "rate-limit", "skip-check", "mode"] as const,
      ...["strict", "key-file"] as const,
    ],
    says: {
      dir: "the backup directory",
      "target-dir": "the folder that the VM is restored into",
    },
    examples: [
      {
        does: "The VM as it was last, and the command that starts it",
        line: "qmpbackup restore vm --dir /backup/vm1 --target-dir /vm/vm1",
      },
    ],
  },
  "restore finish": {
    summary: "Move the data into a running VM made by restore vm --instant",
    required: ["dir", "socket"],
    optional: ["timeout", "rate-limit"],
    says: { dir: "the backup directory that the VM still reads from" },
    examples: [
      {
        does: "Let the VM run without the backups",
        line: "qmpbackup restore finish --dir /backup/vm1 --socket /run/vm1.qmp",
      },
    ],
  },
  "restore rollback": {
    summary: "Take a VM's own disks back to a point in time",
    required: ["dir", "socket", "until"],
    optional: [
      ...["include", "allow-missing", "reset", "no-safety-backup", "dry-run"] as const,
      ...["via-hmp", "timeout", "fleece-dir", "rate-limit", "skip-check", "mode"] as const,
      ...["stall-timeout", "strict", "quiet"] as const,
    ],
    says: {
      dir: "the backup directory; of --monthly that of a month",
      until: "an image's name, a run's id, or a local time such as \"2026-11-22 23:00\"",
      "allow-missing": "take a run that lacks some of the VM's disks, too; those stay as they are",
    },
    examples: [
      {
        does: "See how much would be written",
        line: "qmpbackup restore rollback --dir /backup/vm1 --socket /run/vm1.qmp " +
          "--until 2026-11-21 --dry-run",
      },
      {
        does: "Do it; the guest is reset",
        line: "qmpbackup restore rollback --dir /backup/vm1 --socket /run/vm1.qmp " +
          "--until 2026-11-21 --reset",
      },
    ],
  },
  info: {
    summary: "Show a VM's disks and bitmaps, or what a backup directory holds",
    required: [],
    optional: ["show", ...VM_FLAGS, "dir", ...LIST_FLAGS],
    says: BACKUPS,
    examples: [
      { does: "The disks", line: "qmpbackup info --socket /run/vm1.qmp --show blockdev" },
      { does: "The restore points", line: "qmpbackup info --show backups --dir /backup/vm1" },
      {
        does: "Whether last night worked for all VMs",
        line: "qmpbackup info --dir /backup --max-age 26h",
      },
    ],
  },
  list: {
    summary: "Show what a backup directory holds, as info --show backups does",
    required: ["dir"],
    optional: [...LIST_FLAGS],
    says: BACKUPS,
    examples: [{ does: "The backups of a VM", line: "qmpbackup list --dir /backup/vm1" }],
  },
  cleanup: {
    summary: "Remove old backups, clean up after a killed run, or remove our bitmaps",
    required: [],
    optional: [
      ...["target", "prune", ...KEEP_FLAGS, "rate-limit", "key-file"] as const,
      ...["protect", "unprotect", "note"] as const,
      ...["socket", "timeout", "recover", "agent-socket", "agent-timeout"] as const,
      ...["remove-bitmap", "uuid", "dry-run"] as const,
    ],
    says: {
      target:
        "the backup directory; with --monthly the one that holds the months. With --recover the one " +
        "whose unfinished files are deleted (that of the killed run, if QEMU still knows it)",
      "agent-socket": "the guest agent's socket, to thaw a guest that was left frozen",
      uuid: "only the bitmaps of the chain with this id",
    },
    examples: [
      {
        does: "See which backups would be removed, and how much space that frees",
        line: "qmpbackup cleanup --prune --target /backup/vm1 --keep-daily 14 --keep-weekly 8 " +
          "--dry-run",
      },
      {
        does: "Keep one run for ever",
        line: "qmpbackup cleanup --target /backup/vm1 --protect 20261122T230000Z-3f9a2c41",
      },
      {
        does: "See what a killed run has left",
        line: "qmpbackup cleanup --socket /run/vm1.qmp --recover --dry-run",
      },
      {
        does: "Remove all our bitmaps",
        line: "qmpbackup cleanup --socket /run/vm1.qmp --remove-bitmap",
      },
    ],
  },
  "completions bash": completions("bash", "/etc/bash_completion.d/qmpbackup"),
  "completions zsh": completions("zsh", "/usr/local/share/zsh/site-functions/_qmpbackup"),
  "completions fish": completions("fish", "/etc/fish/completions/qmpbackup.fish"),
  help: {
    summary: "Print this help, that of a subcommand, or a topic",
    required: [],
    optional: [],
    examples: [{ does: "The ways to restore", line: "qmpbackup help restore" }],
  },
  version: {
    summary: "Print the version",
    required: [],
    optional: [],
    examples: [{ does: "The version of this binary", line: "qmpbackup version" }],
  },
  manual: {
    summary: "Print the manual page",
    required: [],
    optional: [],
    examples: [
      {
        does: "Install the manual page",
        line: "qmpbackup manual >/usr/local/share/man/man1/qmpbackup.1",
      },
    ],
  },
  units: {
    summary: "Print systemd units: a timer for each VM, configured by a file",
    required: [],
    optional: ["root"],
    examples: [
      { does: "Install the units", line: "qmpbackup units --root /" },
    ],
  },
  guard: {
    summary: "Let the guest go on if the run that holds it is killed",
    hidden: true,
    required: ["socket", "run"],
    optional: ["timeout", "agent-socket", "agent-timeout"],
    examples: [],
  },
} as const satisfies Record<string, Command>;

export type CommandName = keyof typeof COMMANDS;

/** The subcommands that are for people. */
export const PUBLIC_COMMANDS = (Object.entries(COMMANDS) as [CommandName, Command][])
  .filter(([, { hidden }]) => !hidden);

/** The flags of a subcommand, those of every subcommand last. */
export function flagsOf({ required, optional }: Command): FlagName[] {
  return [...required, ...optional, ...GLOBAL_FLAGS];
}

/** What a flag does in a subcommand; without one, what it does in most. */
export function helpOfFlag(flag: FlagName, command: CommandName | null): string {
  const { says = {} }: Partial<Command> = command === null ? {} : COMMANDS[command];
  return says[flag] ?? FLAGS[flag].help;
}

/** The first words of subcommands that have two, each with what can follow. */
export const GROUPS: ReadonlyMap<string, readonly CommandName[]> = new Map(
  Map.groupBy(PUBLIC_COMMANDS.map(([name]) => name), (name) => name.split(" ")[0] as string)
    .entries().filter(([first, names]) => names[0] !== first),
);

/** The flags that are for people. */
export const PUBLIC_FLAGS = (Object.keys(FLAGS) as FlagName[])
  .filter((name) => PUBLIC_COMMANDS.some(([, command]) => flagsOf(command).includes(name)));
