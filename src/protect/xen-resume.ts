/**
 * Resumes a guest that was left suspended when `xl remus` died in the middle of a checkpoint. xl has no command for
 * it, so it is what xl itself does after a failed migration: `libxl_domain_resume` with `suspend_cancel`, the guest
 * sees that its suspend was cancelled (libxl.h; tools/xl/xl_migrate.c).
 */
import { readdirSync } from 'node:fs';
import koffi from 'koffi';

const LIBRARY_FOLDERS = ['/usr/lib/x86_64-linux-gnu', '/usr/lib64', '/usr/lib'];
/** `LIBXL_VERSION` in libxl.h. */
const LIBXL_VERSION = 0;
/** `XTL_WARN` in xentoollog.h. */
const XTL_WARN = 6;
const STDERR_FD = 2;

/**
 * @param domid of a guest that `xl list` shows as suspended (`---ss-`)
 * @throws Error when libxl is not there or refuses; the guest is then as it was
 */
export function resumeGuest(domid: number): void {
  const libxl = koffi.load(findLibrary('libxenlight.so.4.'));
  const toollog = koffi.load(findLibrary('libxentoollog.so.1'));
  const libc = koffi.load('libc.so.6');
  const fdopen = libc.func('void *fdopen(int fd, const char *mode)');
  const createLogger = toollog.func(
    'void *xtl_createlogger_stdiostream(void *stream, int level, unsigned int flags)',
  );
  const allocate = libxl.func(
    'int libxl_ctx_alloc(_Out_ void **context, int version, unsigned int flags, void *logger)',
  );
  const free = libxl.func('int libxl_ctx_free(void *context)');
  const resume = libxl.func(
    'int libxl_domain_resume(void *context, uint32_t domid, int suspendCancel, void *how)',
  );
  const logger: unknown = createLogger(fdopen(STDERR_FD, 'w'), XTL_WARN, 0);
  const context: unknown[] = [null];
  const allocated = allocate(context, LIBXL_VERSION, 0, logger) as number;
  if (allocated !== 0) throw new Error(`libxl_ctx_alloc failed with ${allocated}`);
  try {
    const result = resume(context[0], domid, 1, null) as number;
    if (result !== 0) throw new Error(`libxl_domain_resume of ${domid} failed with ${result}`);
  } finally {
    free(context[0]);
  }
}

function findLibrary(prefix: string): string {
  for (const folder of LIBRARY_FOLDERS) {
    let names: string[];
    try {
      names = readdirSync(folder);
    } catch {
      continue;
    }
    const [found] = names.filter((name) => name.startsWith(prefix)).sort();
    if (found !== undefined) return `${folder}/${found}`;
  }
  throw new Error(`no library ${prefix}* in ${LIBRARY_FOLDERS.join(', ')}`);
}
