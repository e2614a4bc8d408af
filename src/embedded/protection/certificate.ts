/**
 * Self-signed certificates for the embedded pair's link, made without openssl, like those that setup makes on hosts:
 * ECDSA on P-256, the host's name as subject and as alternative name. Written in DER by hand, since Node can sign but
 * has no call that makes a certificate.
 *
 * Source: RFC 5280 (certificates), RFC 5758 (ecdsa-with-SHA256), X.690 (DER).
 */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';

const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8: 0x0c,
  time: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;
/** Encoded bodies of the object identifiers. */
const OID = {
  ecdsaWithSha256: [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
  commonName: [0x55, 0x04, 0x03],
  basicConstraints: [0x55, 0x1d, 0x13],
  subjectAltName: [0x55, 0x1d, 0x11],
} as const;
/** [0] and [3] of a certificate's body, [2] of an alternative name: the version, the extensions, a DNS name. */
const VERSION_TAG = 0xa0;
const EXTENSIONS_TAG = 0xa3;
const DNS_TAG = 0x82;
const VERSION_3 = 2;

function der(tag: number, ...parts: Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const length: number[] = [];
  for (let rest = body.length; rest > 0; rest = Math.floor(rest / 256)) length.unshift(rest % 256);
  const head = body.length < 128 ? [tag, body.length] : [tag, 0x80 | length.length, ...length];
  return Buffer.concat([Buffer.from(head), body]);
}

const oid = (bytes: readonly number[]): Buffer => der(TAG.oid, Buffer.from(bytes));
const extension = (id: readonly number[], value: Buffer): Buffer =>
  der(TAG.sequence, oid(id), der(TAG.octetString, value));

/** @returns key and certificate, as PEM */
export function makeEmbeddedCertificate(host: string): { key: string; certificate: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const algorithm = der(TAG.sequence, oid(OID.ecdsaWithSha256));
  const attribute = der(TAG.sequence, oid(OID.commonName), der(TAG.utf8, Buffer.from(host)));
  const name = der(TAG.sequence, der(TAG.set, attribute));
  // The first bit is 0, so that it is no negative number, and the rest is never all zero.
  const serial = Buffer.concat([Buffer.from([0x5a]), randomBytes(15)]);
  const body = der(
    TAG.sequence,
    der(VERSION_TAG, der(TAG.integer, Buffer.from([VERSION_3]))),
    der(TAG.integer, serial),
    algorithm,
    name,
    // As setup's: longer than any host lasts. Whoever removes the folder removes the key.
    der(
      TAG.sequence,
      der(TAG.time, Buffer.from('20200101000000Z')),
      der(TAG.time, Buffer.from('21200101000000Z')),
    ),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    der(
      EXTENSIONS_TAG,
      der(
        TAG.sequence,
        extension(OID.basicConstraints, der(TAG.sequence, der(TAG.boolean, Buffer.from([0xff])))),
        extension(OID.subjectAltName, der(TAG.sequence, der(DNS_TAG, Buffer.from(host)))),
      ),
    ),
  );
  const signature = sign('sha256', body, privateKey);
  const whole = der(TAG.sequence, body, algorithm, der(TAG.bitString, Buffer.from([0]), signature));
  const base64 = whole.toString('base64').replace(/.{1,64}/g, '$&\n');
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    certificate: `-----BEGIN CERTIFICATE-----\n${base64}-----END CERTIFICATE-----\n`,
  };
}
