using System.Globalization;
using Vmm.Machine;
using Vmm.Protos;

namespace Vmm.Worker.Machines;

/// <summary>What running VMs share and must not take from each other: memory, and files that they write. Thread-safe.</summary>
internal sealed class HostCapacity(long maxMemoryBytes)
{
    private const int Writer = -1;

    private readonly Lock _lock = new();
    private readonly Dictionary<string, int> _disks = new(StringComparer.Ordinal);
    private long _memory;

    /// <summary>Takes what a machine needs until the result is disposed.</summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED: no memory. FAILED_PRECONDITION: a disk is in use.</exception>
    public IDisposable Reserve(MachineSpec spec)
    {
        lock (_lock)
        {
            // In lockstep there are two machines.
            long memory = (long)spec.MemoryBytes * (spec.Engine == ExecutionEngine.Lockstep ? 2 : 1);
            if (memory > maxMemoryBytes - _memory)
                throw ApiError.ResourceExhausted(
                    "OUT_OF_MEMORY",
                    "memory",
                    string.Create(CultureInfo.InvariantCulture, $"The VM needs {memory >> 20} MiB, and running VMs hold {_memory >> 20} of {maxMemoryBytes >> 20} MiB."));
            var taken = new List<DiskSpec>();
            foreach (DiskSpec disk in spec.Disks)
            {
                int users = _disks.GetValueOrDefault(disk.Path);
                if (users == Writer || (users > 0 && !disk.ReadOnly))
                {
                    Release(taken, 0);
                    throw ApiError.FailedPrecondition("DISK_IN_USE", "DISK", Path.GetFileName(disk.Path), $"The disk file {Path.GetFileName(disk.Path)} is in use by a running VM, and one of the two writes it.");
                }

                _disks[disk.Path] = disk.ReadOnly ? users + 1 : Writer;
                taken.Add(disk);
            }

            _memory += memory;
            return new Reservation(this, taken, memory);
        }
    }

    private void Release(List<DiskSpec> disks, long memory)
    {
        lock (_lock)
        {
            _memory -= memory;
            foreach (DiskSpec disk in disks)
            {
                if (disk.ReadOnly && _disks[disk.Path] > 1)
                    _disks[disk.Path]--;
                else
                    _disks.Remove(disk.Path);
            }
        }
    }

    private sealed class Reservation(HostCapacity capacity, List<DiskSpec> disks, long memory) : IDisposable
    {
        private int _released;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _released, 1) == 0)
                capacity.Release(disks, memory);
        }
    }
}
