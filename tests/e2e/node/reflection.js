// Learns a platform's API from the platform: server reflection, and nothing else.
//
// `discover(address, metadata)` answers the package of every service there, as @grpc/grpc-js makes it of descriptors.

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import descriptor from "protobufjs/ext/descriptor/index.js";

const READABLE = { keepCase: true, longs: String, enums: String, bytes: String, oneofs: true };

// The part of grpc/reflection/v1alpha/reflection.proto that is asked here.
const REFLECTION = {
  nested: {
    grpc: { nested: { reflection: { nested: { v1alpha: { nested: {
      ServerReflection: { methods: { ServerReflectionInfo: {
        requestType: "ServerReflectionRequest", requestStream: true,
        responseType: "ServerReflectionResponse", responseStream: true,
      } } },
      ServerReflectionRequest: {
        oneofs: { message_request: { oneof: ["file_by_filename", "file_containing_symbol", "list_services"] } },
        fields: {
          file_by_filename: { type: "string", id: 3 },
          file_containing_symbol: { type: "string", id: 4 },
          list_services: { type: "string", id: 7 },
        },
      },
      ServerReflectionResponse: { fields: {
        file_descriptor_response: { type: "FileDescriptorResponse", id: 4 },
        list_services_response: { type: "ListServiceResponse", id: 6 },
        error_response: { type: "ErrorResponse", id: 7 },
      } },
      FileDescriptorResponse: { fields: { file_descriptor_proto: { rule: "repeated", type: "bytes", id: 1 } } },
      ListServiceResponse: { fields: { service: { rule: "repeated", type: "ServiceResponse", id: 1 } } },
      ServiceResponse: { fields: { name: { type: "string", id: 1 } } },
      ErrorResponse: { fields: { error_code: { type: "int32", id: 1 }, error_message: { type: "string", id: 2 } } },
    } } } } } },
  },
};

export async function discover(address, metadata) {
  const ask = asker(address, metadata);
  const { list_services_response: list } = await ask({ list_services: "*" });
  const files = new Map();
  for (const { name } of list.service) {
    await collect(ask, files, { file_containing_symbol: name });
  }
  const set = descriptor.FileDescriptorSet.encode({ file: [...files.values()] }).finish();
  return grpc.loadPackageDefinition(protoLoader.loadFileDescriptorSetFromBuffer(Buffer.from(set), READABLE));
}

// One stream, one question at a time.
function asker(address, metadata) {
  const { grpc: root } = grpc.loadPackageDefinition(protoLoader.fromJSON(REFLECTION, { keepCase: true }));
  const client = new root.reflection.v1alpha.ServerReflection(address, grpc.credentials.createInsecure());
  return (question) =>
    new Promise((resolve, reject) => {
      const call = client.ServerReflectionInfo(metadata);
      call.on("error", reject);
      call.on("data", (answer) => {
        call.end();
        answer.error_response ? reject(new Error(answer.error_response.error_message)) : resolve(answer);
      });
      call.write(question);
    });
}

async function collect(ask, files, question) {
  const { file_descriptor_response: answer } = await ask(question);
  const found = answer.file_descriptor_proto.map((bytes) => descriptor.FileDescriptorProto.decode(bytes));
  for (const file of found) {
    files.set(file.name, file);
  }
  for (const name of found.flatMap((file) => file.dependency)) {
    if (!files.has(name)) {
      await collect(ask, files, { file_by_filename: name });
    }
  }
}
