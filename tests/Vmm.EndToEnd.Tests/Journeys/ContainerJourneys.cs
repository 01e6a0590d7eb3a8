using Vmm.EndToEnd.Tests.Installations;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>Journeys with the fleet of <c>docker-compose.yml</c>.</summary>
[Collection(ContainerFleetTests.Name)]
[RequiresDocker]
public sealed class ContainerLinuxJourneys(ContainerFleet fleet, ITestOutputHelper log) : LinuxJourneys(fleet, log);

/// <inheritdoc cref="ContainerLinuxJourneys"/>
[Collection(ContainerFleetTests.Name)]
[RequiresDocker]
public sealed class ContainerNestedJourneys(ContainerFleet fleet) : NestedJourneys(fleet);

/// <inheritdoc cref="ContainerLinuxJourneys"/>
[Collection(ContainerFleetTests.Name)]
[RequiresDocker]
public sealed class ContainerHotplugJourneys(ContainerFleet fleet, ITestOutputHelper log) : HotplugJourneys(fleet, log);

/// <inheritdoc cref="ContainerLinuxJourneys"/>
[Collection(ContainerFleetTests.Name)]
[RequiresDocker]
public sealed class ContainerSnapshotJourneys(ContainerFleet fleet, ITestOutputHelper log) : SnapshotJourneys(fleet, log);

/// <inheritdoc cref="ContainerLinuxJourneys"/>
[Collection(ContainerFleetTests.Name)]
[RequiresDocker]
public sealed class ContainerNestedStateJourneys(ContainerFleet fleet) : NestedStateJourneys(fleet);

/// <inheritdoc cref="ContainerLinuxJourneys"/>
[Collection(ContainerFleetTests.Name)]
[RequiresDocker]
public sealed class ContainerFleetJourneys(ContainerFleet fleet) : FleetJourneys(fleet);

/// <summary>The fleet of <c>docker-compose.yml</c>, brought up once for all journeys.</summary>
[CollectionDefinition(Name)]
public sealed class ContainerFleetTests : ICollectionFixture<ContainerFleet>
{
    /// <summary>Of the collection.</summary>
    public const string Name = "Container fleet";
}
