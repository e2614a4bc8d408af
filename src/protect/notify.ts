/**
 * Tells systemd that a unit's process lives: sd_notify(3), a datagram to the socket in $NOTIFY_SOCKET. Node has no
 * datagram sockets on unix addresses, so it is made with libc.
 */
import koffi from 'koffi';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_NOSIGNAL = 0x4000;
const MSG_DONTWAIT = 0x40;
const PATH_MAX = 108;

/** Sends states such as `READY=1` or `WATCHDOG=1`; does nothing outside of a unit. */
export type Notify = (state: string) => void;

export function systemdNotify(socketPath: string | undefined = process.env['NOTIFY_SOCKET']): Notify {
  if (socketPath === undefined || socketPath === '') return () => undefined;
  const libc = koffi.load('libc.so.6');
  const socket = libc.func('int socket(int domain, int type, int protocol)');
  const sendto = libc.func(
    'long sendto(int fd, void *bytes, size_t length, int flags, void *address, uint32_t addressLength)',
  );
  const name = Buffer.from(socketPath, 'utf8');
  if (name.length >= PATH_MAX) throw new Error(`NOTIFY_SOCKET is longer than ${PATH_MAX - 1} bytes`);
  const address = Buffer.alloc(2 + PATH_MAX);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  // A leading @ stands for an address in the abstract namespace: a zero byte.
  const isAbstract = socketPath.startsWith('@');
  if (isAbstract) address[2] = 0;
  const length = 2 + name.length + (isAbstract ? 0 : 1);
  const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) as number;
  if (fd < 0) throw new Error(`socket failed with errno ${koffi.errno()}`);
  return (state) => {
    const bytes = Buffer.from(state, 'utf8');
    // A full queue loses one sign of life; the next one comes soon.
    sendto(fd, bytes, bytes.length, MSG_NOSIGNAL | MSG_DONTWAIT, address, length);
  };
}
