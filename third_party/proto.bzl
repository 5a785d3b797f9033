"""cc_proto: C++ (and gRPC) code of one .proto file, by the installed protoc."""

def cc_proto(name, deps = [], grpc = False, **kwargs):
    src = name + ".proto"
    outs = [name + ".pb.h", name + ".pb.cc"]
    flags = "--cpp_out=$(GENDIR)"
    if grpc:
        outs += [name + ".grpc.pb.h", name + ".grpc.pb.cc"]
        flags += " --grpc_out=$(GENDIR)" + \
                 " --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin"
    native.genrule(
        name = name + "_gen",
        srcs = [src] + [d + ".proto" for d in deps],
        outs = outs,
        cmd = "protoc -I. %s proto/%s" % (flags, src),
    )
    native.cc_library(
        name = name,
        srcs = [o for o in outs if o.endswith(".cc")],
        hdrs = [o for o in outs if o.endswith(".h")],
        copts = ["-w"],
        deps = [":" + d for d in deps] + [
            "@system//:grpc" if grpc else "@system//:protobuf",
        ],
        **kwargs
    )
