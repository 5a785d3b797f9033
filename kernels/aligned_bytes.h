#ifndef KERNELS_ALIGNED_BYTES_H_
#define KERNELS_ALIGNED_BYTES_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace sluice::kernels {

// Owns zeroed bytes at a 64-byte boundary, the alignment that packed matrices,
// activations and scratch ask for.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(int64_t size)
      : bytes_(static_cast<uint8_t*>(
            ::operator new (static_cast<size_t>(size), std::align_val_t{64}))),
        size_(size) {
    std::memset(bytes_.get(), 0, static_cast<size_t>(size));
  }

  uint8_t* data() const { return bytes_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* bytes) const {
      ::operator delete (bytes, std::align_val_t{64});
    }
  };

  std::unique_ptr<uint8_t, Free> bytes_;
  int64_t size_ = 0;
};

}  // namespace sluice::kernels

#endif  // KERNELS_ALIGNED_BYTES_H_
