using Vmm.EndToEnd.Tests.Installations;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>Journeys with a fleet of processes, which other installations do not make each time.</summary>
[Collection(ProcessFleetTests.Name)]
[RequiresPackage("postgresql")]
[RequiresNightly]
public sealed class ProcessLinuxJourneys(ProcessFleet fleet, ITestOutputHelper log) : LinuxJourneys(fleet, log);

/// <inheritdoc cref="ProcessLinuxJourneys"/>
[Collection(ProcessFleetTests.Name)]
[RequiresPackage("postgresql")]
[RequiresNightly]
public sealed class ProcessNestedJourneys(ProcessFleet fleet) : NestedJourneys(fleet);

/// <inheritdoc cref="ProcessLinuxJourneys"/>
[Collection(ProcessFleetTests.Name)]
[RequiresPackage("postgresql")]
[RequiresNightly]
public sealed class ProcessHotplugJourneys(ProcessFleet fleet, ITestOutputHelper log) : HotplugJourneys(fleet, log);

/// <inheritdoc cref="ProcessLinuxJourneys"/>
[Collection(ProcessFleetTests.Name)]
[RequiresPackage("postgresql")]
public sealed class ProcessSnapshotJourneys(ProcessFleet fleet, ITestOutputHelper log) : SnapshotJourneys(fleet, log);

/// <inheritdoc cref="ProcessLinuxJourneys"/>
[Collection(ProcessFleetTests.Name)]
[RequiresPackage("postgresql")]
public sealed class ProcessNestedStateJourneys(ProcessFleet fleet) : NestedStateJourneys(fleet);

/// <inheritdoc cref="ProcessLinuxJourneys"/>
[Collection(ProcessFleetTests.Name)]
[RequiresPackage("postgresql")]
public sealed class ProcessFleetJourneys(ProcessFleet fleet) : FleetJourneys(fleet);

/// <summary>The fleet of processes, started once for all journeys.</summary>
[CollectionDefinition(Name)]
public sealed class ProcessFleetTests : ICollectionFixture<ProcessFleet>
{
    /// <summary>Of the collection.</summary>
    public const string Name = "Process fleet";
}
