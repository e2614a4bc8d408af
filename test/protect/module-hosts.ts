/**
 * A fake of the DRBD module with protocol D (fake-module.ts) under the processes of two fake hosts (hosts.ts). The
 * module is in the test; a host's programs come to it by these ways:
 *
 *     /proc/drbd              a file, written anew at every change
 *     ioctl 20 and 30         a library in front of libc, which runs the fake tool `fake-module ioctl N`
 *     drbdadm, fake-module    write `NUMBER HOST WORDS...` into the fifo `asks`, and read the exit status from a fifo
 *                             of their own, `answer-NUMBER`
 */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { FakeModule } from './fake-module.js';
import type { FakePair } from './hosts.js';

const SIDES = { alpha: 'primary', beta: 'backup' } as const;

export function ioctlLibrary(place: string): string {
  return join(place, 'fake-ioctl.so');
}

/**
 * Whoever loads libc by its name gets this library first, whose ioctl answers the module's two requests. The status of
 * the tool is the result: 0, 1, or an errno plus 100.
 */
export function buildIoctl(place: string): void {
  const source = join(place, 'fake-ioctl.c');
  writeFileSync(
    source,
    `#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
void *dlopen(const char *file, int flags) {
  void *(*next)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");
  Dl_info self;
  if (file && !strcmp(file, "libc.so.6") && dladdr((void *)dlopen, &self)) file = self.dli_fname;
  return next(file, flags);
}
int ioctl(int fd, unsigned long request, void *argument) {
  int (*next)(int, unsigned long, void *) = dlsym(RTLD_NEXT, "ioctl");
  if (request != 20 && request != 30) return next(fd, request, argument);
  char command[64];
  snprintf(command, sizeof command, "fake-module ioctl %lu", request);
  int status = system(command);
  int result = WIFEXITED(status) ? WEXITSTATUS(status) : 105;
  if (result < 100) return result;
  errno = result - 100;
  return -1;
}
`,
  );
  execFileSync('gcc', ['-shared', '-fPIC', '-w', '-o', ioctlLibrary(place), source, '-ldl']);
}

/** Shell: a /proc that is the kernel's, with a `drbd` of its own. */
export function ownProc(root: string): string {
  return `mkdir ${root}/proc
      mount --bind /proc ${root}/proc
      mount -t tmpfs fake /proc
      for entry in ${root}/proc/[a-z]*; do ln -s "$entry" /proc/; done
      rm -f /proc/drbd
      ln -s ${root}/world/proc-drbd /proc/drbd`;
}

/** The module of both hosts, from when the pair has started to `close`. */
export class ModuleOfHosts {
  readonly module = new FakeModule();
  /** What was asked, as `alpha ioctl 20` or `beta drbdadm primary web`. */
  readonly asked: string[] = [];
  readonly #pair: FakePair;
  readonly #asks: Socket;
  readonly #unanswered = new Set<string>();

  constructor(pair: FakePair) {
    this.#pair = pair;
    const path = join(pair.place, 'asks');
    execFileSync('mkfifo', [path]);
    // Open for writing too, so that it never ends.
    const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    this.#asks = new Socket({ fd, readable: true, writable: false });
    createInterface({ input: this.#asks }).on('line', (line) => this.#answer(line));
    this.show();
  }

  /** The guest writes. @returns the number of the write */
  write(kib = 4): number {
    const number = this.module.write(kib);
    this.show();
    return number;
  }

  /** Writes each host's `/proc/drbd` anew. */
  show(): void {
    for (const [host, side] of Object.entries(SIDES)) {
      const path = join(this.#pair.place, host, 'world', 'proc-drbd');
      writeFileSync(`${path}.new`, this.module.proc(side));
      renameSync(`${path}.new`, path);
    }
  }

  #answer(line: string): void {
    const [number = '', host = '', ...words] = line.split(' ');
    this.asked.push([host, ...words].join(' '));
    this.#unanswered.add(number);
    if (words[0] === 'ioctl') {
      const answer = this.module.ioctl(Number(words[1]));
      this.show();
      if (answer !== 'never') this.#say(number, answer.result < 0 ? 100 + answer.errno : answer.result);
      return;
    }
    void this.module.drbdadm(words).then(({ code }) => {
      this.show();
      this.#say(number, code ?? 1);
    });
  }

  #say(number: string, status: number): void {
    this.#unanswered.delete(number);
    // It is open at the other end from before the question.
    const fd = openSync(join(this.#pair.place, `answer-${number}`), constants.O_RDWR);
    writeSync(fd, `${status}\n`);
    closeSync(fd);
  }

  /** Whoever still waits is let go. */
  close(): void {
    for (const number of this.#unanswered) this.#say(number, 105);
    this.#asks.destroy();
  }
}
