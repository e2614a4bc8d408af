/**
 * What the arbiter `ssh` runs on the third machine: POSIX sh and GNU coreutils 8.24 or later.
 *
 *     sh -c CLAIM_SCRIPT claim DIRECTORY NAME HOST   ->  `winner HOST`
 *     sh -c LOOK_SCRIPT look DIRECTORY NAME          ->  `winner HOST` or `free`
 *
 * One line on standard output and exit status 0, or a reason on standard error and another status.
 *
 * `ln` is link(2) and fails where the name is taken, so one claim ever gets it, and the winner's name is in the
 * file, on disk, before the file is seen by that name. (A `mkdir` decides as well, but the name could be put in
 * only after it, and a crash between the two would leave a decision that names nobody.) Every answer is given
 * after the directory was made durable, also one that only finds what another claim has left: that one may have
 * died before its own `sync`.
 */
export const CLAIM_SCRIPT = `
umask 022
cd -- "$1" || exit 1
if [ ! -e "$2" ]; then
  new=$(mktemp .claim.XXXXXXXXXX) || exit 1
  trap 'rm -f -- "$new"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '%s\\n' "$3" >"$new" && chmod 644 -- "$new" && sync -- "$new" || exit 1
  ln -T -- "$new" "$2" 2>/dev/null || [ -e "$2" ] || ln -T -- "$new" "$2" || exit 1
fi
sync -- . || exit 1
winner=$(cat -- "$2") || exit 1
printf 'winner %s\\n' "$winner"
`;

export const LOOK_SCRIPT = `
cd -- "$1" || exit 1
if [ ! -e "$2" ]; then
  if [ ! -w . ]; then
    echo "$1 can't be written to" >&2
    exit 1
  fi
  echo free
  exit 0
fi
sync -- . || exit 1
winner=$(cat -- "$2") || exit 1
printf 'winner %s\\n' "$winner"
`;
