/**
 * The files of an embedded host, in memory. Directories are those that were made and those that something is
 * in; what lies below /run is gone after a boot.
 */
export interface EmbeddedFile {
  content: Buffer;
  mode: number;
}

export class FileSystem {
  readonly #files = new Map<string, EmbeddedFile>();
  readonly #directories = new Map<string, number>([['/', 0o755]]);
  /** Files of the kernel: their text, or undefined where there is none. */
  readonly #special: (path: string) => string | undefined;

  constructor(files: Record<string, string>, special: (path: string) => string | undefined) {
    this.#special = special;
    for (const path of [
      '/run/lock',
      '/etc/drbd.d',
      '/etc/systemd/system',
      '/var/lib',
      '/usr/lib',
      '/usr/sbin',
    ]) {
      this.makeDirectory(path, 0o755);
    }
    for (const [path, text] of Object.entries(files)) this.write(path, Buffer.from(text), 0o644);
  }

  read(path: string): EmbeddedFile | undefined {
    const special = this.#special(path);
    return special === undefined ? this.#files.get(path) : { content: Buffer.from(special), mode: 0o444 };
  }

  text(path: string): string | undefined {
    return this.read(path)?.content.toString('utf8');
  }

  exists(path: string): boolean {
    return this.read(path) !== undefined || this.#directories.has(path);
  }

  directoryMode(path: string): number | undefined {
    return this.#directories.get(path);
  }

  /** True for the nodes of devices and the like, which no test of content applies to. */
  isSpecial(path: string): boolean {
    return this.#special(path) !== undefined;
  }

  /** Atomic, as an upload is, with its parents. */
  write(path: string, content: Buffer, mode: number): void {
    if (this.#directories.has(path))
      throw new Error(`mv: cannot overwrite directory '${path}' with non-directory`);
    this.makeDirectory(parent(path), 0o755, true);
    this.#files.set(path, { content: Buffer.from(content), mode });
  }

  /** @param keep leaves the mode of a directory that is there alone */
  makeDirectory(path: string, mode: number, keep = false): void {
    if (this.#files.has(path)) throw new Error(`mkdir: cannot create directory '${path}': Not a directory`);
    if (path !== '/') this.makeDirectory(parent(path), 0o755, true);
    if (!keep || !this.#directories.has(path)) this.#directories.set(path, mode);
  }

  delete(path: string): boolean {
    return this.#files.delete(path);
  }

  rename(from: string, to: string): void {
    const file = this.#files.get(from);
    if (file === undefined) return;
    this.#files.delete(from);
    this.write(to, file.content, file.mode);
  }

  /** Paths of all files at or below a directory, sorted. */
  below(directory: string): string[] {
    return [...this.#files.keys()].filter((path) => path.startsWith(`${directory}/`)).sort();
  }

  /** Removes empty directories at and below one, deepest first. */
  removeEmpty(directory: string): void {
    const inside = [...this.#directories.keys()].filter(
      (path) => path === directory || path.startsWith(`${directory}/`),
    );
    for (const path of inside.sort((a, b) => b.length - a.length)) {
      const used = [...this.#files.keys(), ...this.#directories.keys()].some((one) =>
        one.startsWith(`${path}/`),
      );
      if (!used) this.#directories.delete(path);
    }
  }

  forgetVolatile(): void {
    for (const path of this.below('/run')) this.#files.delete(path);
  }
}

function parent(path: string): string {
  return path.slice(0, path.lastIndexOf('/')) || '/';
}
