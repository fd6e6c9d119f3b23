// store.js FOLDER: an S3 server (npm s3rver, which knows accounts and the times of signatures, and does not check their sums)
// with one bucket in that folder. Prints its port when it is ready, and ends with its standard input.

const S3rver = require("s3rver");

const server = new S3rver({
  address: "127.0.0.1",
  port: 0,
  silent: true,
  directory: process.argv[2],
  configureBuckets: [{ name: "shop-backups" }],
});

server.run().then(({ port }) => {
  console.log(port);
  process.stdin.resume();
  process.stdin.on("end", () => server.close(() => process.exit(0)));
});
